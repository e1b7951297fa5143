//! Compiled plugins on disk: taken when sound, made again when not, and never trusted.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempDir;
use workspace_recovery::engine::{Engine, EngineOptions};

use crate::support::{Handmade, step};

fn engine_with(cache: &Path) -> Engine {
    Engine::new(EngineOptions { cache_dir: Some(cache.to_owned()), ..EngineOptions::default() }).unwrap()
}

/// Loads and runs a plugin on an engine of its own, as a new process would.
fn start(cache: &Path) {
    start_with(cache, &Handmade::default());
}

fn start_with(cache: &Path, plugin: &Handmade<'_>) {
    let plugin = engine_with(cache).load(&plugin.component()).unwrap();
    assert!(step(&plugin).is_ok());
}

fn images(cache: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The only file in the cache.
fn image(cache: &Path) -> PathBuf {
    let [image] = images(cache).try_into().unwrap();
    image
}

fn set_age(image: &Path, seconds: u64) {
    let then = SystemTime::now() - std::time::Duration::from_secs(seconds);
    fs::File::options().write(true).open(image).unwrap().set_modified(then).unwrap();
}

#[test]
fn a_compiled_plugin_is_kept_and_taken_again() {
    let cache = TempDir::new().unwrap();
    start(cache.path());
    let image = image(cache.path());
    set_age(&image, 1_000);
    let before = fs::metadata(&image).unwrap().modified().unwrap();
    start(cache.path());
    assert_eq!(fs::metadata(image).unwrap().modified().unwrap(), before, "the image was written again");
}

#[test]
fn any_damage_to_an_image_has_it_made_again() {
    let cache = TempDir::new().unwrap();
    start(cache.path());
    let image = image(cache.path());
    let sound = fs::read(&image).unwrap();
    for place in [0, 30, 91, 200, sound.len() / 2, sound.len() - 1] {
        let mut damaged = sound.clone();
        damaged[place] ^= 1;
        fs::write(&image, &damaged).unwrap();
        start(cache.path());
        assert!(fs::read(&image).unwrap() == sound, "damage at byte {place} was not repaired");
    }
    for damaged in [&b""[..], b"workspace-recovery image 1\n", &sound[..sound.len() - 1]] {
        fs::write(&image, damaged).unwrap();
        start(cache.path());
        assert!(fs::read(&image).unwrap() == sound, "a file of {} bytes was not repaired", damaged.len());
    }
}

#[test]
fn an_image_under_another_plugins_name_is_not_run_for_it() {
    // Whoever can write to the folder could do worse; this is about files that were mixed up.
    let cache = TempDir::new().unwrap();
    start(cache.path());
    let first = image(cache.path());
    let other = Handmade { check_connection: "(i32.const 1)", ..Handmade::default() };
    start_with(cache.path(), &other);
    let second = images(cache.path()).into_iter().find(|path| *path != first).unwrap();
    let sound = fs::read(&second).unwrap();
    fs::copy(&first, &second).unwrap();
    start_with(cache.path(), &other);
    assert!(fs::read(&second).unwrap() == sound, "the image of another plugin was taken");
}

#[test]
fn a_folder_that_cannot_be_used_only_costs_time() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a-file");
    fs::write(&file, "in the way").unwrap();
    start(&file);
    start(&file.join("below-a-file"));
    assert_eq!(fs::read_to_string(file).unwrap(), "in the way");
}

#[test]
fn only_the_newest_images_are_kept() {
    let cache = TempDir::new().unwrap();
    for age in 0..20_u64 {
        let old = cache.path().join(format!("old-{age}.image"));
        fs::write(&old, "old").unwrap();
        set_age(&old, 1_000 + age);
    }
    fs::write(cache.path().join("not-ours"), "kept").unwrap();
    start(cache.path());
    let kept = images(cache.path());
    assert_eq!(kept.iter().filter(|path| path.extension().is_some()).count(), 16);
    assert!(kept.contains(&cache.path().join("not-ours")));
    assert!(kept.contains(&cache.path().join("old-0.image")));
    assert!(!kept.contains(&cache.path().join("old-19.image")));
}

#[cfg(unix)]
mod private {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_folder_is_made_private() {
        let parent = TempDir::new().unwrap();
        let cache = parent.path().join("images");
        start(&cache);
        assert_eq!(mode(&cache), 0o700);
    }

    #[test]
    fn images_that_others_could_have_written_are_made_again() {
        let cache = TempDir::new().unwrap();
        start(cache.path());
        let image = image(cache.path());
        set_age(&image, 1_000);
        let before = fs::metadata(&image).unwrap().modified().unwrap();
        fs::set_permissions(cache.path(), fs::Permissions::from_mode(0o777)).unwrap();
        start(cache.path());
        assert_eq!(mode(cache.path()), 0o700);
        assert_ne!(fs::metadata(image).unwrap().modified().unwrap(), before, "the image was trusted");
    }
}
