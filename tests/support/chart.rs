//! The chart of `deploy/helm`, rendered by Helm.

use std::{env, ffi::OsString, process::Command};

use super::checkout::file;

/// Renders a release of the chart with these options of `helm template`, or gives what Helm complains
/// of.
#[track_caller]
pub(crate) fn render(release: &str, options: &[&str]) -> Result<String, String> {
    helm(&[&["template", release, "--namespace=reload-agent"], options].concat())
}

/// What Helm prints about the chart, or what it complains of.
#[track_caller]
pub(crate) fn helm(arguments: &[&str]) -> Result<String, String> {
    let program: OsString =
        env::var_os("RELOAD_HELM").expect("`cargo xtask test` runs this, with Helm");
    let output = Command::new(program)
        .args(arguments)
        .arg(file("deploy/helm/reload-agent"))
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
