//! Servers that encrypt, with certificates made on the spot; and the client's options.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use workspace_recovery::control_plane::ControlPlane;
use workspace_recovery::control_plane::rest::{RestClient, RestError, RestOptions};

use crate::TOKEN;
use crate::replay::{Asked, Reply, Server};
use crate::transcript::recorded;

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub enum Validity {
    Past,
    Now,
    Future,
}

/// A server's certificate, and the authority that made it.
pub struct Identity {
    folder: TempDir,
    config: Arc<ServerConfig>,
}

impl Identity {
    pub fn new(names: &[&str], validity: Validity) -> Self {
        let mut authority = CertificateParams::new([]).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut server = CertificateParams::new(names).unwrap();
        match validity {
            Validity::Past => server.not_after = date_time_ymd(2001, 1, 1),
            Validity::Now => {}
            Validity::Future => server.not_before = date_time_ymd(3000, 1, 1),
        }
        let key = KeyPair::generate().unwrap();
        let certificate = server.signed_by(&key, &authority).unwrap();
        Self::with(&certificate, &key, &authority.pem())
    }

    /// A certificate that was made by nobody else, for an authority, as people make them who read no manual.
    pub fn of_an_authority(name: &str) -> Self {
        let mut certificate = CertificateParams::new([name.to_owned()]).unwrap();
        certificate.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        Self::with(&certificate, &key, &certificate.pem())
    }

    fn with(certificate: &Certificate, key: &KeyPair, authority: &str) -> Self {
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority).unwrap();
        Self { folder, config: Arc::new(config) }
    }

    /// The authority's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Options with which the authority is trusted.
    pub fn options(&self, url: &str) -> RestOptions {
        RestOptions { ca_file: Some(self.ca_file()), ..RestOptions::new(url, TOKEN) }
    }

    /// A server with this certificate, at `https://localhost`.
    pub async fn serve(&self, answers: impl FnMut(&Asked) -> Reply + Send + 'static) -> String {
        let plain = Server::start(answers).await.url.replace("http://", "");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let acceptor = TlsAcceptor::from(self.config.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, plain) = (acceptor.clone(), plain.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut server = TcpStream::connect(plain).await.unwrap();
                    let _ = copy_bidirectional(&mut stream, &mut server).await;
                });
            }
        });
        url
    }
}

/// Something that answers whatever it is told with `answer`.
pub async fn speaking(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut told = [0; 1 << 16];
            let _ = stream.read(&mut told).await.unwrap();
            stream.write_all(answer).await.unwrap();
        }
    });
    url
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_if_its_certificate_is_given() {
    let identity = Identity::new(&["localhost"], Validity::Now);
    let url = identity.serve(|_| recorded("05-stop-start-conflicts", 6)).await;
    let client = RestClient::with_options(&identity.options(&url)).unwrap();
    assert_eq!(client.workspace("w").await.unwrap().name, "conflict2");
}

/// What `doctor` says of a deployment on a machine without any authority.
fn without_authorities(url: &str, ca_file: Option<PathBuf>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_workspace-recovery"));
    program.env_clear().env("HOME", folder.path()).env("CODER_SESSION_TOKEN", TOKEN);
    program.env("SSL_CERT_FILE", "/nowhere").env("SSL_CERT_DIR", "/nowhere").args(["--coder-url", url]);
    if let Some(file) = ca_file {
        program.arg("--coder-ca-file").arg(file);
    }
    let ended = program.arg("doctor").output().unwrap();
    String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_authorities_is_told_and_one_that_is_given_will_do() {
    let identity = Identity::new(&["localhost"], Validity::Now);
    let url = identity.serve(|_| recorded("01-setup-create-workspace", 1)).await;
    let told = without_authorities(&url, None);
    assert!(told.contains("ca-certificates") && told.contains("CA file"), "{told}");
    let told = without_authorities(&url, Some(identity.ca_file()));
    assert!(told.contains("is a Coder deployment"), "{told}");
}

#[test]
fn a_file_of_certificates_that_is_of_no_use_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str, content: Option<&str>| {
        let path = folder.path().join(name);
        content.inspect(|content| std::fs::write(&path, content).unwrap());
        let options =
            RestOptions { ca_file: Some(path), ..RestOptions::new("https://coder.example.com", TOKEN) };
        RestClient::with_options(&options).unwrap_err()
    };
    let missing = made("missing.pem", None);
    assert!(missing.to_string().contains("missing.pem cannot be read"), "{missing}");
    for text in ["", "no certificate\n"] {
        let empty = made("empty.pem", Some(text));
        assert!(matches!(empty, RestError::NoCertificate(_)), "{empty:?}");
        assert!(empty.to_string().contains("has no certificate in it"), "{empty}");
    }
    let broken = "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n";
    assert!(matches!(made("broken.pem", Some(broken)), RestError::Client(_) | RestError::CaFile { .. }));
}
