//! Mounting without privilege, through the set-uid program `fusermount3` of the package `fuse3`.
//!
//! It is given a socket (`_FUSE_COMMFD`, here its standard input, so that no descriptor has to
//! survive an exec by other means), mounts, and sends the `/dev/fuse` descriptor over it.
#![allow(unsafe_code, reason = "a descriptor received over a socket is adopted as owned")]

use std::ffi::OsStr;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::MountError;

const PROGRAM: &str = "fusermount3";

/// Mounts on `point` with the options of mount(8) and returns the device.
pub(super) fn mount(point: &Path, options: &str) -> Result<OwnedFd, MountError> {
    let socket_error = |error| MountError::io("cannot talk to fusermount3 for", point, error);
    let (ours, theirs) = UnixStream::pair().map_err(socket_error)?;
    let mut command = Command::new(PROGRAM);
    command.args(["-o", options, "--"]).arg(point).env("_FUSE_COMMFD", "0");
    command.stdin(OwnedFd::from(theirs));
    let output = run(command, point)?;
    if !output.status.success() {
        return Err(refusal(&output));
    }
    receive(&ours).map_err(socket_error)
}

/// Unmounts `point`; lazily: open files stay usable.
pub(super) fn unmount(point: &Path, lazily: bool) -> Result<(), MountError> {
    let mut command = Command::new(PROGRAM);
    command.arg("-u").args(lazily.then_some("-z")).arg("--").arg(point).stdin(Stdio::null());
    let output = run(command, point)?;
    if output.status.success() { Ok(()) } else { Err(refusal(&output)) }
}

fn run(mut command: Command, point: &Path) -> Result<Output, MountError> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).env("LC_ALL", OsStr::new("C"));
    command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MountError::NotPermitted(point.to_owned()),
        _ => MountError::io("cannot run fusermount3 for", point, error),
    })
}

fn refusal(output: &Output) -> MountError {
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim().trim_start_matches("fusermount3: ");
    if text.contains("/dev/fuse: Permission denied") {
        return MountError::DeviceClosed;
    }
    MountError::Fusermount(if text.is_empty() { output.status.to_string() } else { text.into() })
}

/// Receives the one descriptor that the program sent before it ended.
fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut control = cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    for item in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = item
            && let [descriptor] = descriptors[..]
        {
            // SAFETY: the kernel just made this descriptor for us, and nobody else knows it.
            return Ok(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no descriptor came"))
}
