//! The `-o` options of mount(8) and fstab: which are honoured, which are ignored because they are
//! meant for others, and which are refused.

use crate::args::Raw;

/// What the kernel is asked for when it mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountFlags {
    /// Nothing may be changed through this mount.
    pub read_only: bool,
    /// Devices can be opened.
    pub dev: bool,
    /// setuid and setgid bits count.
    pub suid: bool,
    /// Programs can be executed.
    pub exec: bool,
    /// Every write is an fsync.
    pub sync: bool,
    /// Every change of a directory waits for the disk (which is so anyway).
    pub dirsync: bool,
    /// Users other than the one who mounts get in, whatever /etc/fuse.conf says; refused there, the mount fails.
    pub allow_other: bool,
    /// Reading moves no access time.
    pub noatime: bool,
}

impl Default for MountFlags {
    fn default() -> Self {
        Self {
            read_only: false,
            dev: false,
            suid: false,
            exec: true,
            sync: false,
            dirsync: false,
            allow_other: false,
            noatime: false,
        }
    }
}

/// Meant for mount(8), systemd or local filesystems; of no consequence here.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "_netdev",
    "nofail",
    "async",
    "diratime",
    "nodiratime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "iversion",
    "noiversion",
    "silent",
    "loud",
    "nonempty",
    "default_permissions",
    "comment",
    "fsname",
    "subtype",
    "uhelper",
    "helper",
];

/// Takes one `-o` argument (several options between commas) into `flags` and `raw`; later options win.
///
/// # Errors
/// The option that is not known or has a wrong value, in words.
pub(crate) fn apply(list: &str, flags: &mut MountFlags, raw: &mut Raw) -> Result<(), String> {
    list.split(',').map(str::trim).filter(|o| !o.is_empty()).try_for_each(|option| apply_one(option, flags, raw))
}

fn apply_one(option: &str, flags: &mut MountFlags, raw: &mut Raw) -> Result<(), String> {
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    };
    match (name, value) {
        ("rw", None) => flags.read_only = false,
        ("ro", None) => flags.read_only = true,
        ("dev", None) => flags.dev = true,
        ("nodev", None) => flags.dev = false,
        ("suid", None) => flags.suid = true,
        ("nosuid", None) => flags.suid = false,
        ("exec", None) => flags.exec = true,
        ("noexec", None) => flags.exec = false,
        ("sync", None) => flags.sync = true,
        ("dirsync", None) => flags.dirsync = true,
        ("allow_other", None) => flags.allow_other = true,
        ("noatime", None) => flags.noatime = true,
        ("atime" | "relatime", None) => flags.noatime = false,
        ("remount", _) => return Err("a mount cannot be changed; unmount it and mount it again".into()),
        ("bind" | "rbind" | "move", _) => {
            return Err(format!("{name} is not for this filesystem; call mount(8) itself"));
        }
        _ if IGNORED.contains(&name) || name.starts_with("x-") || name.starts_with("X-") => {}
        (_, Some(value)) => return apply_setting(name, value, raw),
        _ => return Err(unknown(option)),
    }
    Ok(())
}

/// The flags of this program, so that fstab can say them too.
fn apply_setting(name: &str, value: &str, raw: &mut Raw) -> Result<(), String> {
    let number = || value.parse::<u64>().map_err(|_| format!("{name} must be a number, not {value:?}"));
    match name.replace('_', "-").as_str() {
        "dirty-mib" => raw.dirty_mib = Some(number()?),
        "cache-mib" => raw.cache_mib = Some(number()?),
        "cache" => raw.cache = Some(value.into()),
        "cache-size" => raw.cache_size = Some(value.into()),
        "threads" => raw.threads = Some(number()?),
        "log-file" => raw.log_file = Some(value.into()),
        "log-level" => raw.log_level = Some(value.into()),
        "pid-file" => raw.pid_file = Some(value.into()),
        "metrics" => raw.metrics = Some(value.into()),
        _ => return Err(unknown(name)),
    }
    Ok(())
}

fn unknown(option: &str) -> String {
    format!("unknown option {option:?}; dfs-fuse --help lists those it knows")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<(MountFlags, Raw), String> {
        let (mut flags, mut raw) = (MountFlags::default(), Raw::default());
        apply(list, &mut flags, &mut raw)?;
        Ok((flags, raw))
    }

    #[test]
    fn what_fstab_and_mount_pass_is_taken() {
        for list in [
            "rw",
            "defaults,_netdev,noauto,user,x-systemd.automount,x-gvfs-hide,nofail",
            "rw,nosuid,nodev,noexec,relatime,user=alice,comment=x-foo",
            "rw,dev,suid,default_permissions,fsname=a,subtype=dfs-fuse",
            "",
        ] {
            parse(list).unwrap();
        }
    }

    #[test]
    fn what_matters_is_honoured_and_the_last_word_counts() {
        let (flags, _) = parse("rw,dev,suid,noexec,ro,sync,dirsync").unwrap();
        assert!(flags.read_only && flags.dev && flags.suid && !flags.exec && flags.sync && flags.dirsync);
        assert!(parse("relatime,noatime").unwrap().0.noatime);
        let (flags, _) = parse("ro,rw,dev,nodev,noatime,atime").unwrap();
        assert_eq!(flags, MountFlags::default());
    }

    #[test]
    fn settings_can_be_options() {
        let (_, raw) = parse("dirty_mib=300,cache-mib=5,log_file=/var/log/x,metrics=127.0.0.1:9").unwrap();
        assert_eq!((raw.dirty_mib, raw.cache_mib), (Some(300), Some(5)));
        assert_eq!(raw.log_file.unwrap().to_str(), Some("/var/log/x"));
        assert_eq!(raw.metrics.as_deref(), Some("127.0.0.1:9"));
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for bad in ["rx", "dirty_mib=lots", "remount,rw", "bind", "size=5g", "ro=1", "uid=0", "allow_root"] {
            let why = parse(bad).unwrap_err();
            assert!(why.contains(bad.split(['=', ',']).next().unwrap()) || bad.starts_with("remount"), "{bad}: {why}");
        }
    }
}
