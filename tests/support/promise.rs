//! One test for each source: only for the files of tests whose promises hold under several.

/// Makes of a function that takes a [`Source`] one test for each source, named `function::source`.
///
/// A promise holds under every source. Where it cannot, for what the source is, those under which it
/// does are listed, below a comment that says why: `promise!(function: ebpf, fanotify)`.
macro_rules! promise {
    ($name:ident) => {
        promise!($name: ebpf, fanotify, inotify, poll);
    };
    ($name:ident: $($source:ident),+) => {
        mod $name {
            $(
                #[test]
                #[ignore = "needs root; `cargo xtask test` runs it"]
                fn $source() {
                    let source = stringify!($source);
                    super::$name($crate::support::source::Source::named(source));
                }
            )+
        }
    };
}
