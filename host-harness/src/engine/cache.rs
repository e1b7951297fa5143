//! Compiled plugins on disk.
//!
//! An image is machine code that this process will run, so it is only taken from a folder that nobody else can write
//! to, and only if its own hash, which the file carries, is right. The bytes that were verified are the bytes that are
//! loaded. Anything else, a file from another engine, a damaged or half-written one, is compiled afresh and replaced.
//! A folder that cannot be used costs time and nothing else.

use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wasmtime::component::Component;

use super::check::hex;

/// Begins every image. The number is that of the layout: this line, a hash in hexadecimal, a line end, the machine
/// code. The hash is over the file's name, which says what the code was made from, and the code.
const MAGIC: &[u8] = b"workspace-recovery image 1\n";

/// Length of a SHA-256 hash in hexadecimal.
const HASH_LEN: usize = 64;

/// The newest images that are kept. Each has some 700 KiB; older ones belong to plugins and engines of the past.
const KEPT_IMAGES: usize = 16;

/// A folder of images for one engine.
pub(super) struct Cache {
    folder: PathBuf,
    /// Names everything that an image depends on but the component: engine version, settings, processor.
    engine: String,
}

impl Cache {
    /// Opens a cache, making its folder if need be. None if it cannot be used, or cannot be trusted.
    pub(super) fn open(folder: &Path, engine: &wasmtime::Engine) -> Option<Self> {
        match make_private(folder) {
            Ok(()) => Some(Self { folder: folder.to_owned(), engine: fingerprint(engine) }),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "compiled plugins are not kept");
                None
            }
        }
    }

    /// The compiled form of the component with this hash, if there is a sound one.
    pub(super) fn get(&self, component: &str, engine: &wasmtime::Engine) -> Option<Component> {
        let file = fs::read(self.path(component)).ok()?;
        let (hash, image) = file.strip_prefix(MAGIC)?.split_at_checked(HASH_LEN)?;
        let image = image.strip_prefix(b"\n")?;
        if self.seal(component, image).as_bytes() != hash {
            return None;
        }
        #[expect(unsafe_code, reason = "there is no other way to load machine code")]
        // SAFETY: the image came out of `Component::serialize` unchanged: only this user can write to the folder, and
        // the hash of these very bytes is right. wasmtime itself refuses images of other versions and settings.
        let component = unsafe { Component::deserialize(engine, image) };
        component.ok()
    }

    /// Keeps a compiled component. Failing to is not worth more than a line in the log.
    pub(super) fn put(&self, component: &str, compiled: &Component) {
        let written = compiled.serialize().map_err(|error| error.to_string()).and_then(|image| {
            let mut file =
                tempfile::NamedTempFile::new_in(&self.folder).map_err(|error| error.to_string())?;
            let hash = self.seal(component, &image);
            [MAGIC, hash.as_bytes(), b"\n", &image]
                .into_iter()
                .try_for_each(|part| file.write_all(part))
                .map_err(|error| error.to_string())?;
            file.persist(self.path(component)).map_err(|error| error.to_string())
        });
        match written {
            Ok(_) => self.prune(),
            Err(error) => {
                tracing::warn!(folder = %self.folder.display(), %error, "a compiled plugin was not kept");
            }
        }
    }

    fn name(&self, component: &str) -> String {
        format!("{component}-{}.image", self.engine)
    }

    fn path(&self, component: &str) -> PathBuf {
        self.folder.join(self.name(component))
    }

    /// Ties machine code to what it was made from.
    fn seal(&self, component: &str, image: &[u8]) -> String {
        let hash = Sha256::new().chain_update(self.name(component)).chain_update(b"\n").chain_update(image);
        hex(&hash.finalize())
    }

    /// Removes all but the newest images.
    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut images: Vec<_> = entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "image"))
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        images.sort();
        let surplus = images.len().saturating_sub(KEPT_IMAGES);
        for (_, image) in images.drain(..surplus) {
            // Another process may have been faster.
            let _ = fs::remove_file(image);
        }
    }
}

/// wasmtime's own account of what an image depends on, its version included.
fn fingerprint(engine: &wasmtime::Engine) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Makes the folder, and sees to it that it is ours and that nobody else can write to it.
#[cfg(unix)]
fn make_private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};

    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // A file that we make belongs to whom we are; the folder must too. A folder of somebody else cannot be made safe.
    let ours = tempfile::tempfile_in(folder)?.metadata()?.uid();
    let found = fs::metadata(folder)?;
    if found.uid() != ours {
        return Err(std::io::Error::other("the folder belongs to another user"));
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        // While it was open to others, others may have put something there.
        if found.mode() & 0o022 != 0 {
            return remove_images(folder);
        }
    }
    Ok(())
}

#[cfg(unix)]
fn remove_images(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "image") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Elsewhere, a folder in the user's profile is private by default.
#[cfg(not(unix))]
fn make_private(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)
}
