//! The files in `/etc` of a build.

use super::BUILD_DIR;

/// `/etc/passwd`, for a build that runs as this user.
pub fn passwd(uid: u32, gid: u32) -> String {
    format!(
        "root:x:0:0:Nix build user:{BUILD_DIR}:/noshell\n\
         nixbld:x:{uid}:{gid}:Nix build user:{BUILD_DIR}:/noshell\n\
         nobody:x:65534:65534:Nobody:/:/noshell\n"
    )
}

/// `/etc/group`, for a build that runs as this group.
pub fn group(gid: u32) -> String {
    format!("root:x:0:\nnixbld:!:{gid}:\nnogroup:x:65534:\n")
}

/// `/etc/hosts`, for builds without network.
pub const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";

/// `/etc/nsswitch.conf`, for builds with network: names are looked up in files and in the DNS, not
/// with the name services of the host.
pub const NSSWITCH: &str = "hosts: files dns\nservices: files\n";

/// Files of the host that builds with network see, if they exist.
pub const HOST_FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/services", "/etc/hosts"];
