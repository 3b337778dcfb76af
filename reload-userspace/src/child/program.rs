//! Where a program is, and whether it can be run.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, AtFlags, CWD, accessat};

/// Where a program is looked for if nobody says so: where root's programs are, too, for there is nginx.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a program is that the agent would run.
#[must_use]
pub fn own(program: &str) -> Option<PathBuf> {
    find(Path::new("/"), program, env::var_os("PATH").as_deref())
}

/// What is wrong where [`own`] finds nothing, and what to do about that.
#[must_use]
pub fn lack(program: &str) -> (String, &'static str) {
    let is_file = program.contains('/') && fs::metadata(program).is_ok_and(|it| it.is_file());
    if is_file {
        return (format!("{program} is not executable for the agent"), "make it so (chmod +x)");
    }
    (format!("there is no program {program} where the agent is"), "install it there")
}

/// Where a program is, as seen from a root: at the path that is given, or in a directory of `path`.
#[must_use]
pub fn find(root: &Path, program: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![program.into()]
    } else {
        let usual = OsString::from(USUAL_PATH);
        env::split_paths(path.unwrap_or(&usual)).map(|dir| dir.join(program)).collect()
    };
    let is_own = root == Path::new("/");
    let is_program = |path: &PathBuf| {
        // A relative one starts where the agent is, if the root is its own.
        let path =
            if is_own { path.clone() } else { root.join(path.strip_prefix("/").unwrap_or(path)) };
        // A symlink may be absolute, and means another root's file then: it is taken for a program.
        let is_link = || fs::symlink_metadata(&path).is_ok_and(|it| it.is_symlink());
        let is_file = || fs::metadata(&path).is_ok_and(|it| it.is_file());
        let may_run = || accessat(CWD, &path, Access::EXEC_OK, AtFlags::EACCESS).is_ok();
        (is_file() && may_run()) || (!is_own && is_link())
    };
    candidates.into_iter().find(is_program)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_program_is_looked_for_as_the_kernel_would() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, mode: u32| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        put("usr/bin/check", 0o755);
        put("opt/check", 0o644);
        put("opt/tool", 0o755);
        let check = |program: &str, path: Option<&str>, expected: Option<&str>| {
            let found = find(root.path(), program, path.map(OsStr::new));
            assert_eq!(found.as_deref(), expected.map(Path::new), "for {program} in {path:?}");
        };
        check("check", None, Some("/usr/bin/check"));
        check("check", Some("/opt:/usr/bin"), Some("/usr/bin/check"));
        check("check", Some("/opt"), None);
        check("tool", None, None);
        check("/opt/tool", None, Some("/opt/tool"));
        check("/opt", None, None);
        check("/usr/bin/none", Some("/usr/bin"), None);
    }
}
