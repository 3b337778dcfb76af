//! What the demo does, as data: each change, who makes it and how, and what has to come of it.

/// One change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    /// What it is called.
    pub(crate) title: &'static str,
    /// How it is made.
    pub(crate) act: Act,
    /// What has to come of it.
    pub(crate) then: Then,
}

/// How a change is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// The kubelet gives a key of the volume another text, or removes it.
    Kubelet {
        /// The key.
        key: &'static str,
        /// The page that it makes the server answer, and with what.
        page: Option<(&'static str, &'static str)>,
    },
    /// A command, run in the demo's folder.
    Command(&'static [&'static str]),
}

/// What has to come of a change.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    /// One signal, and the server answers this page with this text.
    Serves(&'static str, &'static str),
    /// One signal, and the server knows this page no more.
    Forgets(&'static str),
    /// No signal, and the server is left alone.
    Nothing,
    /// No signal, for the server would not take it.
    Withheld,
}

/// What the files say at the beginning.
pub(crate) const SITE: (&str, &str) = ("/site", "revision 1");
pub(crate) const HOST: (&str, &str) = ("/host", "revision 1");

/// A file outside of what is watched, for a command to copy from.
pub(crate) const DRAFT: (&str, &str) = ("/host", "revision 3");

/// The changes that the server is to follow.
pub(crate) const SCENES: [Scene; 8] = [
    Scene {
        title: "ConfigMap updated",
        act: Act::Kubelet { key: "site.conf", page: Some(("/site", "revision 2")) },
        then: Then::Serves("/site", "revision 2"),
    },
    Scene {
        title: "ConfigMap, a key added",
        act: Act::Kubelet { key: "extra.conf", page: Some(("/extra", "a new page")) },
        then: Then::Serves("/extra", "a new page"),
    },
    Scene {
        title: "ConfigMap, a key removed",
        act: Act::Kubelet { key: "extra.conf", page: None },
        then: Then::Forgets("/extra"),
    },
    Scene {
        title: "A file edited by sed -i",
        act: Act::Command(&["sed", "-i", "s/revision 1/revision 2/", "host/host.conf"]),
        then: Then::Serves("/host", "revision 2"),
    },
    Scene {
        title: "A file written in place",
        act: Act::Command(&["cp", "draft.conf", "host/host.conf"]),
        then: Then::Serves("/host", "revision 3"),
    },
    Scene {
        title: "The same content again",
        act: Act::Command(&["cp", "draft.conf", "host/host.conf"]),
        then: Then::Nothing,
    },
    Scene {
        title: "A mistake in the file",
        act: Act::Command(&["sed", "-i", "s/return/retrun/", "host/host.conf"]),
        then: Then::Withheld,
    },
    Scene {
        title: "The mistake mended",
        act: Act::Command(&[
            "sed",
            "-i",
            "s/retrun/return/; s/revision 3/revision 4/",
            "host/host.conf",
        ]),
        then: Then::Serves("/host", "revision 4"),
    },
];

/// A process that does not catch the signal, and would die of it.
pub(crate) const NO_HANDLER: &str = "no-handler";
pub(crate) const NO_HANDLER_TITLE: &str = "A process with no handler";
