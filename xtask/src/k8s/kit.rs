//! The scripts that bring a cluster up: where they are.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use crate::place::{Place, as_root};

/// The variable that says where the kit is.
pub(crate) const VARIABLE: &str = "RELOAD_K8S";

/// What to do where there is none.
pub(crate) const LACK: &str = "there is no kit for a cluster in ../shared/k8s; set RELOAD_K8S to a folder with one \
                               (up.sh, load, kubectl, down.sh)";

/// A folder of scripts.
#[derive(Clone, Debug)]
pub(crate) struct Kit {
    folder: PathBuf,
}

impl Kit {
    /// The one that is named, or else the one beside the checkout, if there is one.
    ///
    /// # Errors
    ///
    /// Fails where one is named that is none.
    pub(crate) fn find(place: &Place) -> Result<Option<Self>> {
        choose(env::var_os(VARIABLE).map(PathBuf::from), &place.root.join("../shared/k8s"))
    }

    /// Where it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A command that runs one of its scripts as root, with these variables.
    pub(crate) fn command(&self, script: &str, variables: &[(&str, String)]) -> Command {
        let mut command = as_root("env");
        command.args(variables.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(self.folder.join(script));
        command
    }
}

fn choose(named: Option<PathBuf>, beside: &Path) -> Result<Option<Kit>> {
    let is_kit = |folder: &Path| folder.join("up.sh").is_file();
    if let Some(folder) = named.filter(|named| !named.as_os_str().is_empty()) {
        ensure!(
            is_kit(&folder),
            "there is no up.sh in {}, which {VARIABLE} names",
            folder.display()
        );
        return Ok(Some(Kit { folder: folder.canonicalize()? }));
    }
    if !is_kit(beside) {
        return Ok(None);
    }
    Ok(Some(Kit { folder: beside.canonicalize()? }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_one_that_is_named_goes_before_the_one_beside() {
        let home = tempfile::tempdir().unwrap();
        let [beside, named, empty] = ["beside", "named", "empty"].map(|name| {
            let folder = home.path().canonicalize().unwrap().join(name);
            fs::create_dir(&folder).unwrap();
            folder
        });
        for folder in [&beside, &named] {
            fs::write(folder.join("up.sh"), "").unwrap();
        }
        let folder = |named: Option<&PathBuf>, beside: &Path| {
            choose(named.cloned(), beside).unwrap().map(|kit| kit.folder)
        };
        assert_eq!(folder(None, &beside).as_ref(), Some(&beside));
        assert_eq!(folder(Some(&PathBuf::new()), &beside).as_ref(), Some(&beside));
        assert_eq!(folder(Some(&named), &beside).as_ref(), Some(&named));
        assert_eq!(folder(None, &empty), None);
        let error = choose(Some(empty.clone()), &beside).unwrap_err().to_string();
        let expected = format!("there is no up.sh in {}, which RELOAD_K8S names", empty.display());
        assert_eq!(error, expected);
    }

    #[test]
    fn a_script_gets_its_variables() {
        let kit = Kit { folder: "/kit".into() };
        let command = kit.command("up.sh", &[("SYNC", "1m".to_owned())]);
        let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(words[words.len() - 2..], ["SYNC=1m", "/kit/up.sh"]);
    }
}
