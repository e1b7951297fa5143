//! The processes of a data folder.

use std::path::Path;

use rustix::process::Pid;

/// The processes that name a folder in their arguments, as agents do.
pub fn processes_that_name(folder: &Path) -> Vec<u32> {
    let folder = folder.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| arguments(*pid).contains(folder)).collect()
}

/// A process's arguments, each with a zero at its end.
pub fn arguments(pid: u32) -> String {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&arguments).into_owned()
}

pub fn as_pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}
