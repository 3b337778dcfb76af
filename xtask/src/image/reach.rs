//! How to reach crates.io from here, for a build in a container: certificates, a configuration of
//! cargo, proxies. All of it is handed over for the build alone and stays out of the image.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use tempfile::NamedTempFile;

/// The tables of cargo's configuration that are about registries. The others are about this machine:
/// its linkers, wrappers and folders.
const TABLES: [&str; 5] = ["http", "net", "registries", "registry", "source"];

/// The variables that name the certificates to trust, cargo's own first.
const CERTIFICATES: [&str; 3] = ["CARGO_HTTP_CAINFO", "SSL_CERT_FILE", "CURL_CA_BUNDLE"];

/// Where Debian keeps them.
const USUAL: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The variables that name proxies. `BuildKit` knows them, and neither keeps them nor builds anew for
/// them.
const PROXIES: [&str; 8] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// What a build in a container is told.
#[derive(Debug)]
pub(crate) struct Reach {
    certificates: Option<PathBuf>,
    config: NamedTempFile,
    proxies: Vec<&'static str>,
}

impl Reach {
    /// Looks at the environment and at cargo's configuration.
    ///
    /// # Errors
    ///
    /// Fails where a temporary file cannot be written.
    pub(crate) fn find() -> Result<Self> {
        let home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
        let text = home.and_then(|home| fs::read_to_string(home.join("config.toml")).ok());
        let settings = Settings::parse(&text.unwrap_or_default());
        let config = NamedTempFile::new().context("cannot make a temporary file")?;
        fs::write(&config, &settings.tables).context("cannot write a temporary file")?;

        let set = |name: &&str| env::var_os(name).filter(|value| !value.is_empty());
        let named = CERTIFICATES.iter().find_map(set).map(PathBuf::from);
        let certificates = [named, settings.certificates, Some(PathBuf::from(USUAL))];
        Ok(Self {
            certificates: certificates.into_iter().flatten().find(|path| path.is_file()),
            config,
            proxies: PROXIES.into_iter().filter(|name| set(name).is_some()).collect(),
        })
    }

    /// Adds it to a `docker build`, under the names that the Dockerfile gives it.
    pub(crate) fn tell(&self, build: &mut Command) {
        let Self { certificates, config, proxies } = self;
        let mut secret = |id: &str, path: &Path| {
            build.arg("--secret").arg(format!("id={id},src={}", path.display()));
        };
        if let Some(path) = certificates {
            secret("certificates", path);
        }
        secret("cargo-config", config.path());
        for name in proxies {
            // Without a value the client takes it from its environment, so that it is not shown.
            build.args(["--build-arg", name]);
        }
    }
}

/// What cargo's configuration says about registries.
#[derive(Debug, Default, PartialEq, Eq)]
struct Settings {
    /// The tables, with no path of this machine's certificates in them.
    tables: String,
    /// Those certificates.
    certificates: Option<PathBuf>,
}

impl Settings {
    fn parse(config: &str) -> Self {
        let mut settings = Self::default();
        let mut is_ours = false;
        for line in config.lines() {
            let key = line.trim_start().trim_start_matches('[');
            let first = key.split(['.', ']', '=', ' ']).next().unwrap_or_default();
            if line.trim_start().starts_with('[') {
                is_ours = TABLES.contains(&first);
            }
            if !is_ours {
                continue;
            }
            match line.split_once('=').filter(|(key, _)| key.trim() == "cainfo") {
                Some((_, path)) => {
                    let path = path.trim().trim_matches(['"', '\'']);
                    settings.certificates = Some(PathBuf::from(path));
                }
                None => settings.tables.extend([line, "\n"]),
            }
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_registries_is_handed_over() {
        let config = "[build]\nrustc-wrapper = \"sccache\"\n\
                      [source.crates-io]\nreplace-with = \"mirror\"\n\
                      [target.x86_64-unknown-linux-gnu]\nrustflags = [\n  \"-Ctarget-cpu=native\",\n]\n\
                      [http]\ncainfo = \"/own/bundle.pem\"\ntimeout = 60\n";
        let settings = Settings::parse(config);
        let expected =
            "[source.crates-io]\nreplace-with = \"mirror\"\n[http]\ntimeout = 60\n".to_owned();
        let certificates = Some(PathBuf::from("/own/bundle.pem"));
        assert_eq!(settings, Settings { tables: expected, certificates });
        assert_eq!(Settings::parse(""), Settings::default());
    }

    #[test]
    fn what_is_handed_over_is_a_secret() {
        let config = NamedTempFile::new().unwrap();
        let certificates = Some(PathBuf::from("/bundle.pem"));
        let path = config.path().display().to_string();
        let reach = Reach { certificates, config, proxies: vec!["HTTPS_PROXY"] };
        let mut build = Command::new("docker");
        reach.tell(&mut build);
        let config = format!("id=cargo-config,src={path}");
        let expected = [
            "--secret",
            "id=certificates,src=/bundle.pem",
            "--secret",
            &config,
            "--build-arg",
            "HTTPS_PROXY",
        ];
        assert_eq!(build.get_args().collect::<Vec<_>>(), expected);
    }
}
