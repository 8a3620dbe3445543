//! A namespace path, mounts and a command line -> this process, turned into that program;
//! and the process that holds a pod's network namespace. IO; single-threaded, because
//! `unshare` and `setns` act on the calling thread only.

use std::convert::Infallible;
use std::fs;
use std::io::{BufRead as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::netlink;

/// Becomes `program`: dies with the rig (process `parent`), enters `netns`, sees `mounts`
/// (`ro|rw:source:target`).
///
/// # Errors
/// Only returns when something failed before the program started.
pub fn exec(
    parent: Option<u32>,
    netns: Option<&Path>,
    mounts: &[String],
    command: &[String],
) -> Result<Infallible> {
    if let Some(path) = netns {
        let file = fs::File::open(path)
            .with_context(|| format!("open network namespace {}", path.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
    }
    if !mounts.is_empty() {
        enter_root(mounts)?;
    }
    // After every change of credentials: those clear it.
    die_with_parent()?;
    let now = std::os::unix::process::parent_id();
    if parent.is_some_and(|parent| parent != now) {
        bail!("the rig ended before this program started");
    }
    let (program, args) = command.split_first().context("no program given")?;
    let error = Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("start {program}"))
}

/// The kernel kills this process when the thread that started it ends.
///
/// # Errors
/// When the kernel refuses.
pub fn die_with_parent() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .context("set the parent-death signal")
}

/// Enters new user, network and mount namespaces as their root.
///
/// # Errors
/// When the kernel or its administrator forbids user namespaces.
pub fn enter_cluster_namespace() -> Result<()> {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("unshare user, network and mount namespaces")?;
    fs::write("/proc/self/setgroups", "deny").context("write setgroups")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("write uid_map")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("write gid_map")?;
    make_private()
}

fn make_private() -> Result<()> {
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context("make mounts private")
}

/// A root folder of our own with everything of the old one in it, so that mount points can
/// be made anywhere without touching the host's folders; then the mounts; then chroot.
fn enter_root(mounts: &[String]) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("unshare the mount namespace")?;
    make_private()?;
    // Any folder that programs here have no use for: it is covered, not changed.
    let root = ["/mnt", "/media", "/srv", "/opt"]
        .map(PathBuf::from)
        .into_iter()
        .find(|dir| dir.is_dir())
        .context("none of /mnt, /media, /srv, /opt exists to build a container's root on")?;
    let entries = list("/".as_ref())?;
    tmpfs(&root)?;
    for path in entries.iter().filter(|path| **path != root) {
        let kind = fs::symlink_metadata(path)?.file_type();
        copy_entry(
            path,
            kind,
            &root.join(path.strip_prefix("/").unwrap_or(path)),
        )?;
    }
    for text in mounts {
        let mut parts = text.splitn(3, ':');
        let (Some(mode), Some(source), Some(target)) = (parts.next(), parts.next(), parts.next())
        else {
            bail!("mount {text:?} is not ro|rw:source:target");
        };
        // Sources are named as outside; the new root holds them at the same place.
        let source = root.join(source.trim_start_matches('/'));
        bind_volume(&root, &source, Path::new(target), mode == "ro")
            .with_context(|| format!("mount {text}"))?;
    }
    nix::unistd::chroot(&root).context("chroot")?;
    nix::unistd::chdir("/").context("chdir")
}

fn tmpfs(at: &Path) -> Result<()> {
    mount(
        Some("tmpfs"),
        at,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .with_context(|| format!("mount tmpfs on {}", at.display()))
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .with_context(|| format!("bind {} on {}", source.display(), target.display()))
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

/// Shows `source` at `target`, which does not exist yet.
fn copy_entry(source: &Path, kind: fs::FileType, target: &Path) -> Result<()> {
    if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(source)?, target)?;
    } else if kind.is_dir() {
        fs::create_dir(target)?;
        // Something the host itself may not open is of no use to a container either.
        let _ = bind(source, target);
    } else {
        fs::write(target, "")?;
        let _ = bind(source, target);
    }
    Ok(())
}

fn bind_volume(root: &Path, source: &Path, target: &Path, read_only: bool) -> Result<()> {
    // Symlinks such as /var/run are followed as a program inside would.
    let wanted = fs::canonicalize(target).unwrap_or_else(|_| canonical_parent(target));
    let place = root.join(wanted.strip_prefix("/").unwrap_or(&wanted));
    if !place.exists() {
        make_place(root, &place, source.is_dir())?;
    }
    bind(source, &place)?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        // A host that locks its own flags (nosuid, nodev) refuses; the mount stays writable.
        let _ = mount(None::<&str>, &place, None::<&str>, flags, None::<&str>);
    }
    Ok(())
}

/// The longest part of a path that exists, resolved, and the rest as written.
fn canonical_parent(target: &Path) -> PathBuf {
    let Some(parent) = target.parent() else {
        return target.to_path_buf();
    };
    let base = fs::canonicalize(parent).unwrap_or_else(|_| canonical_parent(parent));
    target
        .file_name()
        .map_or(base.clone(), |name| base.join(name))
}

/// Makes a mount point. Its deepest existing parent is first covered by a tmpfs that shows
/// the same entries: the host's folder must not change, and may not be writable.
fn make_place(root: &Path, place: &Path, dir: bool) -> Result<()> {
    let mut parent = place.parent().context("a mount point needs a parent")?;
    while !parent.exists() {
        parent = parent.parent().context("no parent exists")?;
    }
    if parent != root {
        let open = fs::File::open(parent)?;
        let entries = list(parent)?;
        let old = {
            use std::os::fd::AsRawFd as _;
            PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()))
        };
        let kinds: Vec<_> = entries
            .iter()
            .filter_map(|entry| {
                Some((entry.clone(), fs::symlink_metadata(entry).ok()?.file_type()))
            })
            .collect();
        tmpfs(parent)?;
        for (entry, kind) in kinds {
            let Some(name) = entry.file_name() else {
                continue;
            };
            copy_entry(&old.join(name), kind, &entry)?;
        }
    }
    if dir {
        fs::create_dir_all(place)?;
    } else {
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(place, "")?;
    }
    Ok(())
}

/// Holds a pod's network namespace: says `ready` once it exists, waits for a line, gives
/// `eth0` its address, says `up`, and stays until its input ends.
///
/// # Errors
/// When the kernel refuses.
pub fn pause(ip: Ipv4Addr, gateway: Ipv4Addr) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("unshare the network namespace")?;
    die_with_parent()?;
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    out.flush()?;
    let mut lines = std::io::stdin().lock().lines();
    if lines.next().transpose()?.is_none() {
        return Ok(());
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(netlink::pod(ip, gateway))?;
    writeln!(out, "up")?;
    out.flush()?;
    while lines.next().transpose()?.is_some() {}
    Ok(())
}
