use std::fs;

/// What Linux says about this machine and this process, in bytes; none where it says nothing or sets no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) memory_total: Option<u64>,
    pub(crate) memory_available: Option<u64>,
    pub(crate) cgroup_limit: Option<u64>,
    /// What the control groups leave: files that were read and can be read again do not count as used.
    pub(crate) cgroup_room: Option<u64>,
    pub(crate) locked_limit: Option<u64>,
    pub(crate) nvidia_driver: Option<String>,
}

impl Machine {
    /// What this process may use of the machine's memory.
    pub(crate) fn memory_limit(&self) -> Option<u64> {
        [self.memory_total, self.cgroup_limit].into_iter().flatten().min()
    }

    /// What may be page-locked where nobody says: three quarters of what this process may use, since the rest of the machine, or of the control group, has to live
    /// too, but no more than seven eighths of what nobody uses now. Files in `/dev/shm` are used memory.
    pub(crate) fn lockable_bytes(&self) -> Option<u64> {
        let limit = self.memory_limit().map(|limit| limit / 4 * 3);
        let free = [self.memory_available, self.cgroup_room].into_iter().flatten().min();
        [limit, free.map(|free| free / 8 * 7)].into_iter().flatten().min()
    }

    pub(crate) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let memory = text("/proc/meminfo");
        let groups = Groups::of(&text("/proc/self/cgroup"), &|path| fs::read_to_string(path).ok());
        Self {
            memory_total: kibibytes(&memory, "MemTotal:"),
            memory_available: kibibytes(&memory, "MemAvailable:"),
            cgroup_limit: groups.limit,
            cgroup_room: groups.room,
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

/// What the control groups on the way up from this process's allow: the smallest limit, and the least that one has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Groups {
    limit: Option<u64>,
    room: Option<u64>,
}

/// How a version of control groups says it (cgroup v2, and v1's memory controller): where, and in which files and lines. Tmpfs counts to files, though it cannot be
/// read again.
struct Files {
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    files: &'static str,
    tmpfs: &'static str,
}

const V1: Files = Files {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    files: "total_cache ",
    tmpfs: "total_shmem ",
};
const V2: Files = Files {
    root: "/sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    files: "file ",
    tmpfs: "shmem ",
};

impl Groups {
    fn of(groups: &str, read: &dyn Fn(&str) -> Option<String>) -> Self {
        let mut found = Self::default();
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let files = match fields.next() {
                Some("") => &V2,
                Some(controllers) if controllers.split(',').any(|name| name == "memory") => &V1,
                _ => continue,
            };
            let mut group = fields.next().unwrap_or("/").trim_end_matches('/');
            loop {
                found.add(files, group, read);
                let Some((parent, _)) = group.rsplit_once('/') else { break };
                group = parent;
            }
        }
        found
    }

    fn add(&mut self, files: &Files, group: &str, read: &dyn Fn(&str) -> Option<String>) {
        let Files { root, limit, used, files, tmpfs } = files;
        let text = |file: &str| read(&format!("{root}{group}/{file}"));
        let number = |file: &str| text(file)?.trim().parse::<u64>().ok();
        // v1 writes "no limit" as a number near 2^63.
        let Some(limit) = number(limit).filter(|bytes| *bytes < 1 << 60) else { return };
        self.limit = Some(self.limit.map_or(limit, |known| known.min(limit)));
        let Some(used) = number(used) else { return };
        let statistics = text("memory.stat").unwrap_or_default();
        let line = |key: &str| {
            statistics.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok())
        };
        let read_again = line(files).unwrap_or(0).saturating_sub(line(tmpfs).unwrap_or(0));
        let room = limit.saturating_sub(used.saturating_sub(read_again));
        self.room = Some(self.room.map_or(room, |known| known.min(room)));
    }
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
        let limit = |groups| Groups::of(groups, &read).limit;
        assert_eq!(limit("0::/a/b\n"), Some(1000));
        assert_eq!(limit("0::/\n"), Some(5000));
        assert_eq!(limit("7:cpu,memory:/x\n3:cpuset:/y\n"), None);
        assert_eq!(limit(""), None);
    }

    /// A model in memory is no room for page-locked copies of it; one that was read from disk is.
    #[test]
    fn files_on_disk_leave_room_and_files_in_memory_do_not() {
        let read = |path: &str| {
            let text = match path {
                "/sys/fs/cgroup/a/memory.max" | "/sys/fs/cgroup/memory/x/memory.limit_in_bytes" => "1000",
                "/sys/fs/cgroup/a/memory.current" => "900",
                "/sys/fs/cgroup/a/memory.stat" => "anon 200\nfile 700\nkernel 1\nshmem 300\nfile_mapped 5\n",
                "/sys/fs/cgroup/memory.max" => "5000",
                "/sys/fs/cgroup/memory/x/memory.usage_in_bytes" => "600",
                "/sys/fs/cgroup/memory/x/memory.stat" => "cache 9\ntotal_cache 100\ntotal_shmem 0\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        let room = |groups| Groups::of(groups, &read).room;
        assert_eq!(room("0::/a\n"), Some(1000 - (900 - (700 - 300))));
        assert_eq!(room("4:memory:/x\n"), Some(1000 - (600 - 100)));
        assert_eq!(room("0::/\n"), None, "a limit, and nobody says what is used");
    }

    #[test]
    fn what_may_be_page_locked_is_there_now() {
        let machine = |memory_available, cgroup_limit, cgroup_room| Machine {
            memory_total: Some(1600),
            memory_available,
            cgroup_limit,
            cgroup_room,
            ..Machine::default()
        };
        assert_eq!(machine(Some(1500), None, None).lockable_bytes(), Some(1200));
        assert_eq!(machine(Some(800), None, None).lockable_bytes(), Some(700));
        assert_eq!(machine(Some(1500), Some(800), Some(160)).lockable_bytes(), Some(140));
        assert_eq!(machine(None, Some(800), None).lockable_bytes(), Some(600));
        assert_eq!(Machine::default().lockable_bytes(), None);
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
