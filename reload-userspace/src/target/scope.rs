//! Among whom a rule may look for its processes: all, or the containers of one pod.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    str::FromStr,
};

use super::group;

/// How many digits a uid of a pod has.
const UID_DIGITS: usize = 32;

/// Where in a uid there are dashes, if there are any.
const DASHES: [usize; 4] = [8, 13, 18, 23];

/// How many bytes the number of a container is long: twice as many digits.
const ID_BYTES: usize = 32;

/// Among whom a rule may look for its processes.
///
/// Whatever else is said of them, a process outside is never held, signalled or entered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All that the agent sees.
    #[default]
    Anywhere,
    /// Those whose control groups are those of one pod's containers.
    Pod {
        /// The pod.
        uid: PodUid,
        /// Which of its containers, or `None` for all of them.
        containers: Option<BTreeSet<ContainerId>>,
    },
}

impl Scope {
    /// Whether it leaves nobody out.
    #[must_use]
    pub fn is_anywhere(&self) -> bool {
        *self == Self::Anywhere
    }

    /// One that was written as the uid of a pod, and its containers with commas between them.
    ///
    /// # Errors
    ///
    /// Fails where they are none.
    pub fn pod(uid: &str, containers: Option<&str>) -> Result<Self, ScopeError> {
        let those = containers.map(|text| text.split(',').filter(|id| !id.is_empty()));
        let containers = those.map(|those| those.map(str::parse).collect()).transpose()?;
        Ok(Self::Pod { uid: uid.parse()?, containers })
    }

    /// Whether a process is one of them whose control groups are these, `own` being the agent's, both as
    /// `/proc/<pid>/cgroup` has them.
    #[must_use]
    pub fn admits(&self, groups: &[u8], own: &[u8]) -> bool {
        self.is_anywhere() || self.holds(group::container(groups, own).as_ref())
    }

    /// Whether a process may be one of them that is in this container, or in none that is known.
    #[must_use]
    pub fn holds(&self, container: Option<&Container>) -> bool {
        let Self::Pod { uid, containers } = self else { return true };
        container.is_some_and(|it| {
            it.pod == *uid && containers.as_ref().is_none_or(|those| those.contains(&it.id))
        })
    }
}

/// A container of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Container {
    /// The pod.
    pub pod: PodUid,
    /// The container.
    pub id: ContainerId,
}

/// The uid of a pod, as its kubelet calls the pod's groups and directories.
///
/// That of a static pod is a checksum, and has no dashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid {
    number: u128,
    has_dashes: bool,
}

/// The number of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId([u8; ID_BYTES]);

/// Why a text names no pod or container.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// It is no uid of a pod.
    #[error(
        "{text:?} is no uid of a pod: it has 32 digits 0-9 and a-f, with dashes in 8-4-4-4-12 or \
         without any"
    )]
    Pod {
        /// What was given.
        text: String,
    },
    /// It is no number of a container.
    #[error(
        "{text:?} is no container: it has 64 digits 0-9 and a-f, after the name of its engine and \
         :// or without it"
    )]
    Container {
        /// What was given.
        text: String,
    },
}

impl PodUid {
    /// Takes a uid with this in the place of dashes, or without any, and nothing else.
    pub(super) fn parse(text: &[u8], dash: u8) -> Option<Self> {
        let has_dashes = text.len() == UID_DIGITS + DASHES.len();
        if has_dashes && DASHES.iter().any(|&at| text.get(at) != Some(&dash)) {
            return None;
        }
        let is_digit = |at: &usize| !(has_dashes && DASHES.contains(at));
        let digits = (0..text.len()).filter(is_digit).filter_map(|at| text.get(at).copied());
        let digits: Vec<_> = digits.collect();
        let number = hex(&digits).filter(|_| digits.len() == UID_DIGITS)?;
        Some(Self { number, has_dashes })
    }
}

impl FromStr for PodUid {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let uid = Self::parse(text.as_bytes(), b'-');
        uid.ok_or_else(|| ScopeError::Pod { text: text.to_owned() })
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, has_dashes } = self;
        let digits = format!("{number:032x}");
        for (at, digit) in digits.chars().enumerate() {
            let is_after_dash = [8, 12, 16, 20].contains(&at);
            if *has_dashes && is_after_dash {
                f.write_char('-')?;
            }
            f.write_char(digit)?;
        }
        Ok(())
    }
}

impl ContainerId {
    /// The first twelve digits, which is how engines show it.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }

    /// Takes the 64 digits, and nothing else.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut id = [0; ID_BYTES];
        let (pairs, rest) = text.as_chunks::<2>();
        if pairs.len() != ID_BYTES || !rest.is_empty() {
            return None;
        }
        for (byte, pair) in id.iter_mut().zip(pairs) {
            *byte = u8::try_from(hex(pair)?).ok()?;
        }
        Some(Self(id))
    }
}

impl FromStr for ContainerId {
    type Err = ScopeError;

    /// Takes it as the API server gives it, `containerd://<id>`, or alone.
    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let id = text.split_once("://").map_or(text, |(_, id)| id);
        let id = Self::parse(id.as_bytes());
        id.ok_or_else(|| ScopeError::Container { text: text.to_owned() })
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The number that these digits are, if that is what they are: Kubernetes has no capital ones.
fn hex(digits: &[u8]) -> Option<u128> {
    let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let text = str::from_utf8(digits).ok().filter(|_| digits.iter().all(is_hex))?;
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "1c5f1a63-6d1e-4c8e-9d3c-0f5a3e3a9b11";
    const STATIC: &str = "0c5f1a636d1e4c8e9d3c0f5a3e3a9b11";
    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_uid_of_a_pod_is_what_kubernetes_writes_and_nothing_else() {
        for uid in [UID, STATIC] {
            assert_eq!(uid.parse::<PodUid>().unwrap().to_string(), uid);
        }
        assert_ne!(UID.parse::<PodUid>().unwrap(), UID.replace('-', "").parse().unwrap());
        let check = |text: &str| assert!(text.parse::<PodUid>().is_err(), "for {text}");
        check("");
        check(&UID.to_uppercase());
        check(&UID.replace('-', "_"));
        check(&UID.replacen('-', "0", 1));
        check(&UID[1..]);
        check(&format!("{UID}0"));
        check(&format!(" {UID}"));
        check(&format!("pod{UID}"));
        check(&UID.replace('1', "g"));
        check(&STATIC.replacen('0', "+", 1));
        check(&STATIC.replacen('0', "-", 1));
        check(&format!("{STATIC}----"));
        check(&"é".repeat(16));
        check(&"é".repeat(18));
    }

    #[test]
    fn a_container_is_known_with_its_engine_and_without() {
        let id: ContainerId = ID.parse().unwrap();
        assert_eq!(id.to_string(), ID);
        assert_eq!(id.short(), "0123456789ab");
        for engine in ["containerd", "cri-o", "docker"] {
            assert_eq!(format!("{engine}://{ID}").parse::<ContainerId>().unwrap(), id);
        }
        let check = |text: &str| assert!(text.parse::<ContainerId>().is_err(), "for {text}");
        check("");
        check("containerd://");
        check(&ID[1..]);
        check(&format!("{ID}0"));
        check(&format!("{ID}00"));
        check(&ID.to_uppercase());
        check(&ID.replacen("01", "+1", 1));
        check(&format!("containerd:{ID}"));
        check(&format!("a://b://{ID}"));
    }

    #[test]
    fn a_scope_is_read_as_it_is_written() {
        let scope = |containers: Option<&str>| Scope::pod(UID, containers).unwrap();
        let uid = UID.parse().unwrap();
        let id = ID.parse().unwrap();
        assert_eq!(scope(None), Scope::Pod { uid, containers: None });
        // None of them is not all of them.
        assert_eq!(scope(Some("")), Scope::Pod { uid, containers: Some(BTreeSet::new()) });
        let other = ID.replace('0', "1");
        let both = Some([id, other.parse().unwrap()].into());
        let written = format!("{ID},{other}");
        assert_eq!(scope(Some(&written)), Scope::Pod { uid, containers: both });
        assert!(Scope::pod("x", None).is_err());
        assert!(Scope::pod(UID, Some("x")).is_err());
    }

    #[test]
    fn what_cannot_be_told_is_in_no_pod() {
        let pod: PodUid = UID.parse().unwrap();
        let id: ContainerId = ID.parse().unwrap();
        let other: ContainerId = ID.replace('0', "1").parse().unwrap();
        let check = |containers: Option<&[ContainerId]>, is_in: bool| {
            let containers = containers.map(|those| those.iter().copied().collect());
            let scope = Scope::Pod { uid: pod, containers };
            assert_eq!(scope.holds(Some(&Container { pod, id })), is_in, "for {scope:?}");
            let elsewhere = Container { pod: STATIC.parse().unwrap(), id };
            assert!(!scope.holds(Some(&elsewhere)), "for {scope:?}");
            assert!(!scope.holds(None), "for {scope:?}");
        };
        check(None, true);
        check(Some(&[id]), true);
        check(Some(&[other, id]), true);
        check(Some(&[other]), false);
        check(Some(&[]), false);
        assert!(Scope::Anywhere.holds(None));
    }
}
