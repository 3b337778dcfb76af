//! Which kernel runs.

/// A version of the kernel: major and minor.
pub type Version = (u32, u32);

/// That of the running one, or the oldest there is where it is not told.
///
/// It never decides what is used, for distributions port features back; it only helps to explain, and
/// to be careful.
#[must_use]
pub fn version() -> Version {
    parse(&rustix::system::uname().release().to_string_lossy()).unwrap_or_default()
}

fn parse(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_two_numbers() {
        fn check(release: &str, expected: Option<Version>) {
            assert_eq!(parse(release), expected, "for {release}");
        }
        check("6.18.5", Some((6, 18)));
        check("5.10.0-28-cloud-amd64", Some((5, 10)));
        check("6.1-rc3", Some((6, 1)));
        check("6", None);
        check("mainline", None);
    }
}
