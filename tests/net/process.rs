//! What a process takes, as the kernel tells it.

/// Memory that is resident, in KiB.
pub(super) fn resident_kib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Descriptors that are open.
pub(super) fn descriptors(pid: u32) -> f64 {
    let count = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    f64::from(u32::try_from(count).unwrap())
}
