use std::fs;

/// What Linux says about this machine and this process, in bytes; none where it says nothing or sets no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) memory_total: Option<u64>,
    pub(crate) memory_available: Option<u64>,
    pub(crate) cgroup_limit: Option<u64>,
    pub(crate) locked_limit: Option<u64>,
    pub(crate) nvidia_driver: Option<String>,
}

impl Machine {
    /// What this process may use of the machine's memory.
    pub(crate) fn memory_limit(&self) -> Option<u64> {
        [self.memory_total, self.cgroup_limit].into_iter().flatten().min()
    }

    pub(crate) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let memory = text("/proc/meminfo");
        Self {
            memory_total: kibibytes(&memory, "MemTotal:"),
            memory_available: kibibytes(&memory, "MemAvailable:"),
            cgroup_limit: cgroup_limit(&text("/proc/self/cgroup"), &|path| fs::read_to_string(path).ok()),
            locked_limit: locked_limit(&text("/proc/self/limits")),
            nvidia_driver: driver_version(&text("/proc/driver/nvidia/version")),
        }
    }
}

/// `MemTotal:  16384 kB` (`proc_meminfo(5)`: kibibytes).
fn kibibytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The smallest limit on the way up from this process's group (cgroup v2, and v1's memory controller).
fn cgroup_limit(groups: &str, read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let limit = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let mut smallest = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (root, file) = match fields.next() {
            Some("") => ("/sys/fs/cgroup", "memory.max"),
            Some(controllers) if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut group = fields.next().unwrap_or("/").trim_end_matches('/');
        loop {
            let found = limit(&format!("{root}{group}/{file}"));
            smallest = [smallest, found].into_iter().flatten().min();
            let Some((parent, _)) = group.rsplit_once('/') else { break };
            group = parent;
        }
    }
    // v1 writes "no limit" as a number near 2^63.
    smallest.filter(|bytes| *bytes < 1 << 60)
}

/// The soft limit of `Max locked memory` (`proc_pid_limits(5)`).
fn locked_limit(limits: &str) -> Option<u64> {
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  ..`: the first word that looks like a version.
fn driver_version(text: &str) -> Option<String> {
    let line = text.lines().next()?;
    let is_version =
        |word: &&str| word.contains('.') && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    line.split_whitespace().find(is_version).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_in_kibibytes() {
        let text = "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:   100 kB\n";
        assert_eq!(kibibytes(text, "MemTotal:"), Some(16 << 20));
        assert_eq!(kibibytes(text, "MemAvailable:"), Some(102_400));
        assert_eq!(kibibytes("", "MemTotal:"), None);
    }

    #[test]
    fn the_smallest_limit_of_all_groups_above_holds() {
        let read = |path: &str| match path {
            "/sys/fs/cgroup/a/b/memory.max" => Some("max\n".to_owned()),
            "/sys/fs/cgroup/a/memory.max" => Some("1000\n".to_owned()),
            "/sys/fs/cgroup/memory.max" => Some("5000\n".to_owned()),
            "/sys/fs/cgroup/memory/x/memory.limit_in_bytes" => Some("9223372036854771712".to_owned()),
            _ => None,
        };
        assert_eq!(cgroup_limit("0::/a/b\n", &read), Some(1000));
        assert_eq!(cgroup_limit("0::/\n", &read), Some(5000));
        assert_eq!(cgroup_limit("7:cpu,memory:/x\n3:cpuset:/y\n", &read), None);
        assert_eq!(cgroup_limit("", &read), None);
    }

    #[test]
    fn limits_and_versions_are_found() {
        let limits = "Limit   Soft Limit   Hard Limit   Units\nMax locked memory         8388608      8388608      bytes\n";
        assert_eq!(locked_limit(limits), Some(8 << 20));
        assert_eq!(locked_limit("Max locked memory unlimited unlimited bytes"), None);
        let version =
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23\nGCC version: 12.2.0";
        assert_eq!(driver_version(version).as_deref(), Some("580.95.05"));
        assert_eq!(driver_version(""), None);
    }
}
