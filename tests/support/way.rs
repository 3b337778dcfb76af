//! The ways to change a file: those of `tests/programs/writer.c`, and the kubelet's.

/// A way to change a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// Its name in `writer.c`.
    pub(crate) name: &'static str,
    /// What it is, for people.
    pub(crate) what: &'static str,
    /// The operations that it may be reported as: a way that takes two calls is reported as the one
    /// that the agent hears of first.
    pub(crate) operations: &'static [&'static str],
}

const fn way(name: &'static str, what: &'static str, operations: &'static [&'static str]) -> Way {
    Way { name, what, operations }
}

/// Every way to change the file at a path.
pub(crate) const WAYS: &[Way] = &[
    way("write", "`write`", &["write"]),
    way("rewrite", "`open` with `O_TRUNC`, `write`", &["open", "write"]),
    way("append", "`write` with `O_APPEND`", &["write"]),
    way("pwrite", "`pwrite`", &["write"]),
    way("writev", "`writev`", &["write"]),
    way("pwritev2", "`pwritev2` with `RWF_DSYNC`", &["write"]),
    way("direct", "`pwrite` with `O_DIRECT`", &["write"]),
    way("sendfile", "`sendfile`", &["write"]),
    way("splice", "`splice`", &["write"]),
    way("copy_file_range", "`copy_file_range`", &["write"]),
    way("ficlone", "`FICLONE`, a reflink", &["write"]),
    way("dup", "`write` to a descriptor and its copy", &["write"]),
    way("inherited", "`write` by a child that has inherited the descriptor", &["write"]),
    way("other_name", "`write` by another name of the file, in another directory", &["write"]),
    way("other_mount", "`write` by another mount, in another mount namespace", &["write"]),
    way("mmap", "stores to a mapping", &["change"]),
    way(
        "mmap_closed",
        "stores to a mapping, half a second after the descriptor is closed",
        &["change", "close"],
    ),
    way("mmap_msync", "stores to a mapping, `msync`", &["change"]),
    way("mprotect", "stores to a mapping that `mprotect` has made writable", &["change", "close"]),
    way("io_uring", "`IORING_OP_WRITE`", &["write", "change"]),
    way("aio", "`io_submit`", &["write", "change"]),
    way("truncate", "`truncate`", &["truncate"]),
    way("ftruncate", "`ftruncate`", &["truncate"]),
    way("fallocate", "`fallocate` beyond the end", &["truncate"]),
    way("punch_hole", "`fallocate` of a hole", &["truncate"]),
    way("o_trunc", "`open` with `O_TRUNC`", &["open"]),
    way("rename", "`rename` of another file over it", &["rename"]),
    way("io_uring_rename", "`IORING_OP_RENAMEAT`", &["rename", "change"]),
    way("exchange", "`renameat2` with `RENAME_EXCHANGE`", &["rename"]),
    way("symlink_swap", "`rename` of a symlink over it", &["rename"]),
    way("directory", "`RENAME_EXCHANGE` of its directory", &["rename"]),
    way("link", "`unlink`, `link` of another file", &["unlink", "link"]),
    way("tmpfile", "`unlink`, `linkat` of an `O_TMPFILE`", &["unlink", "link"]),
    way("recreate", "`unlink`, `open` with `O_CREAT`, `write`", &["unlink", "open", "write"]),
];

/// Those after which the file stays open, until `held` is taken away from the stage.
pub(crate) const HELD: &[Way] = &[
    way("write_held", "`write` by a process that keeps the file open", &["write"]),
    way("mmap_held", "stores to a mapping that stays", &["change"]),
    way(
        "mprotect_held",
        "stores to one that `mprotect` has made writable, and that stays",
        &["change"],
    ),
];

/// What is mounted over the file changes neither it nor its directory.
pub(crate) const MOUNT: Way = way("mount", "`mount --bind` of another file over it", &[]);

/// The first write to a file of overlayfs's lower layer copies it up.
pub(crate) const COPY_UP: Way = way("copy_up", "the first `write` to a file of a lower layer", &[]);

/// The kubelet updates the volume that the file is in.
pub(crate) const KUBELET: Way = way("kubelet", "an update of a volume by the kubelet", &[]);
