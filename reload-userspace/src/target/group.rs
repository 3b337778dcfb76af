//! Which container a process is in, by what its control groups are called (`cgroups(7)`); pure.
//!
//! **Invariant:** a process is in the container that Kubernetes has put it into, or in none that is
//! known, whatever groups it makes itself. A container can make groups below its own only, in each
//! hierarchy, and call them as it likes. So what counts is the outermost pod on the way down from the
//! innermost group that the process shares with the agent, with nothing but groups of the kubelet's
//! before it, and all hierarchies that name a pod must name the same container.
//!
//! The shared group is taken as the start because that is what the kernel shows to an agent in a
//! control group namespace of its own, with `..` for the way up; and because a node may itself be a
//! container, even one of a pod: that is then what both have in common.

use super::scope::{Container, ContainerId, PodUid};

/// What the engines call the group of a container, before its number.
const ENGINES: [&[u8]; 5] = [b"", b"cri-containerd-", b"cri-containerd:", b"crio-", b"docker-"];

/// What is before the uid in the slice of a pod.
const POD: &[u8] = b"-pod";

/// The groups in which the kubelet has its pods, where they are no slices that it has named; and those
/// in which an engine has them that knows nothing of slices.
const KUBELETS: [&[u8]; 7] = [
    b"kubepods",
    b"burstable",
    b"besteffort",
    b"kubelet",
    b"kubelet.slice",
    b"system.slice",
    b"containerd.service",
];

/// What the kubelet's slices are called, behind the slices that they are in.
const SLICES: [&[u8]; 3] = [b"kubepods", b"kubepods-burstable", b"kubepods-besteffort"];

/// What one hierarchy says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Nothing of pods.
    Silent,
    /// Something of a pod that cannot be relied on.
    Doubtful,
    /// The process is in that container.
    Named(Container),
}

/// The container of a process, from its `/proc/<pid>/cgroup` and the agent's own; `None` where it is in
/// none, or that cannot be told.
pub(super) fn container(groups: &[u8], own: &[u8]) -> Option<Container> {
    let mut named = None;
    for line in lines(groups) {
        let (hierarchy, path) = line?;
        let ours = lines(own).flatten().find(|(other, _)| *other == hierarchy);
        match word(path, ours.map_or(b"/", |(_, path)| path)) {
            Word::Silent => {}
            Word::Named(container) if named.is_none_or(|other| other == container) => {
                named = Some(container);
            }
            Word::Named(_) | Word::Doubtful => return None,
        }
    }
    named
}

/// A pod and a container that control groups name, not to be relied on: only to be told to people.
pub(super) fn hint(groups: &[u8]) -> Option<(Option<PodUid>, Option<ContainerId>)> {
    lines(groups).flatten().find_map(|(_, path)| {
        let pod = parts(path).enumerate().find_map(|(at, part)| Some((at, pod(part)?)));
        let mut below = parts(path).skip(pod.map_or(0, |(at, _)| at));
        let id =
            if pod.is_some() { below.find_map(any_id) } else { below.filter_map(any_id).last() };
        let pod = pod.map(|(_, (pod, _))| pod);
        (pod.is_some() || id.is_some()).then_some((pod, id))
    })
}

/// The lines `number:controllers:path`, as controllers and path; `None` for one that is none.
fn lines(groups: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    let lines = groups.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| {
        // The path may have colons.
        let mut fields = line.splitn(3, |&byte| byte == b':').skip(1);
        Some((fields.next()?, fields.next()?))
    })
}

/// The groups of a path, from the outermost.
fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|part| !part.is_empty())
}

/// What a path says of a process, `own` being the agent's in the same hierarchy.
fn word(path: &[u8], own: &[u8]) -> Word {
    let mut own = parts(own);
    let mut below = parts(path).skip_while(|&part| own.next() == Some(part));
    let mut is_kubelets = true;
    while let Some(part) = below.next() {
        let Some((pod, joined)) = pod(part) else {
            is_kubelets &= is_of_kubelet(part);
            continue;
        };
        let id = joined.or_else(|| below.next()).filter(|_| is_kubelets).and_then(id);
        return id.map_or(Word::Doubtful, |id| Word::Named(Container { pod, id }));
    }
    Word::Silent
}

/// The pod that a group is called after, and what its container is called where the two are one
/// group: `kubepods-pod<uid>.slice:cri-containerd:<id>` is how containerd takes a slice where it knows
/// nothing of slices.
fn pod(part: &[u8]) -> Option<(PodUid, Option<&[u8]>)> {
    if let Some(uid) = part.strip_prefix(b"pod") {
        return Some((PodUid::parse(uid, b'-')?, None));
    }
    let mut fields = part.splitn(2, |&byte| byte == b':');
    let slice = fields.next()?.strip_suffix(b".slice")?;
    let at = slice.windows(POD.len()).rposition(|it| it == POD)?;
    let uid = PodUid::parse(slice.get(at + POD.len()..)?, b'_')?;
    is_slice_of_kubelet(slice.get(..at)?).then_some((uid, fields.next()))
}

/// The container that a group below its pod's is called after. That of CRI-O's monitor is called
/// `crio-conmon-<id>`, and the monitor is in no container.
fn id(part: &[u8]) -> Option<ContainerId> {
    let name = part.strip_suffix(b".scope").unwrap_or(part);
    ENGINES.iter().find_map(|engine| ContainerId::parse(name.strip_prefix(*engine)?))
}

/// The container of any engine that a group is called after.
fn any_id(part: &[u8]) -> Option<ContainerId> {
    part.split(|byte| b"-.:".contains(byte)).find_map(ContainerId::parse)
}

/// Whether only the kubelet, or whoever has started it, has groups of that name, as long as nothing
/// else is above.
fn is_of_kubelet(part: &[u8]) -> bool {
    let is_slice = || part.strip_suffix(b".slice").is_some_and(is_slice_of_kubelet);
    part == b".." || KUBELETS.contains(&part) || is_slice()
}

/// Whether a slice is one of the kubelet's: systemd names a slice after those that it is in.
fn is_slice_of_kubelet(name: &[u8]) -> bool {
    SLICES.iter().any(|slice| {
        let outer = name.strip_suffix(*slice);
        outer.is_some_and(|outer| outer.is_empty() || outer.ends_with(b"-"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "1c5f1a63-6d1e-4c8e-9d3c-0f5a3e3a9b11";
    const B: &str = "2d5f1a63-6d1e-4c8e-9d3c-0f5a3e3a9b22";
    const STATIC: &str = "0c5f1a636d1e4c8e9d3c0f5a3e3a9b11";
    const ONE: &str = "1111456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const TWO: &str = "2222456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// Writes the names out: `{A}`, and `{a}` as systemd has it, `{1}` for a container.
    fn written(text: &str) -> String {
        let names = [
            ("{A}", A.to_owned()),
            ("{a}", A.replace('-', "_")),
            ("{B}", B.to_owned()),
            ("{b}", B.replace('-', "_")),
            ("{S}", STATIC.to_owned()),
            ("{1}", ONE.to_owned()),
            ("{2}", TWO.to_owned()),
        ];
        names.iter().fold(text.to_owned(), |text, (short, long)| text.replace(short, long))
    }

    #[track_caller]
    fn check(own: &str, groups: &str, expected: Option<(&str, &str)>) {
        let named = container(written(groups).as_bytes(), written(own).as_bytes());
        let pod_and_id = named.map(|it| (it.pod.to_string(), it.id.to_string()));
        let expected = expected.map(|(pod, id)| (pod.to_owned(), id.to_owned()));
        assert_eq!(pod_and_id, expected, "for {groups} seen from {own}");
    }

    const A1: Option<(&str, &str)> = Some((A, ONE));
    const B1: Option<(&str, &str)> = Some((B, ONE));

    #[test]
    fn every_engine_s_names_are_known_from_outside_the_pods() {
        let check = |path: &str, expected| check("0::/", &format!("0::{path}\n"), expected);
        check("/kubepods/pod{A}/{1}", A1);
        check("/kubepods/burstable/pod{A}/{1}", A1);
        check("/kubepods/besteffort/pod{S}/{1}", Some((STATIC, ONE)));
        check("/kubepods/burstable/pod{A}/crio-{1}", A1);
        check("/kubepods/burstable/pod{A}/{1}/init.scope", A1);
        check("/kubepods.slice/kubepods-pod{a}.slice/cri-containerd-{1}.scope", A1);
        let burstable = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{a}.slice";
        check(&format!("{burstable}/cri-containerd-{{1}}.scope"), A1);
        check(&format!("{burstable}/crio-{{1}}.scope"), A1);
        check(&format!("{burstable}/crio-{{1}}.scope/container"), A1);
        check(&format!("{burstable}/docker-{{1}}.scope"), A1);
        check(
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{S}.slice/docker-{1}.scope",
            Some((STATIC, ONE)),
        );
        check("/kubepods-burstable-pod{a}.slice:cri-containerd:{1}", A1);
        check(
            "/system.slice/containerd.service/kubepods-burstable-pod{a}.slice:cri-containerd:{1}",
            A1,
        );
        // As kind has it.
        check("/kubelet/kubepods/burstable/pod{A}/{1}", A1);
        check(
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{a}.slice/cri-containerd-{1}.scope",
            A1,
        );
    }

    #[test]
    fn what_is_in_no_container_of_a_pod_is_in_none() {
        let check = |path: &str| check("0::/", &format!("0::{path}\n"), None);
        check("/");
        check("/init.scope");
        check("/system.slice/containerd.service");
        check("/user.slice/user-0.slice/session-1.scope");
        check("/docker/{1}");
        check("/system.slice/docker-{1}.scope");
        check("/kubepods/{1}");
        check("/tripod/{1}");
        // The pod's own group, and the monitors of its containers.
        check("/kubepods/burstable/pod{A}");
        check("/kubepods/burstable/pod{A}/crio-conmon-{1}");
        check("/kubepods.slice/kubepods-pod{a}.slice/crio-conmon-{1}.scope");
        check("/kubepods/pod{A}/x/{1}");
        check("/kubepods/pod{A}/kata-{1}");
        check("/kubepods/pod{A}/{1}0");
        check("/kubepods/pod{A}/{1} (deleted)");
        check("/kubepods-pod{a}.slice:cri-containerd:{1}:x");
        check("/kubepods-pod{a}.slice:cri-containerd/{1}");
        check("/kubepods-pod{a}.slice:other:{1}");
        check("/kubepods-pod{a}.slice:cri-containerd:x/{1}");
        // None of these is how Kubernetes writes it.
        check("/kubepods/pod{a}/{1}");
        check("/kubepods/podx{A}/{1}");
        check("/kubepods.slice/kubepods-pod{A}.slice/cri-containerd-{1}.scope");
        check("/kubepods.slice/other-pod{a}.slice/cri-containerd-{1}.scope");
        check("/kubepods.slice/mykubepods-pod{a}.slice/cri-containerd-{1}.scope");
    }

    #[test]
    fn the_hierarchies_of_version_1_must_not_contradict_each_other() {
        let check = |groups: &str, expected| {
            let own = "9:name=systemd:/\n8:pids:/\n4:memory:/process/x\n0::/\n";
            check(own, groups, expected);
        };
        let pods = "8:pids:/kubepods/burstable/pod{A}/{1}\n";
        check(pods, A1);
        check(&format!("9:name=systemd:/kubepods/burstable/pod{{A}}/{{1}}\n{pods}0::/\n"), A1);
        check(&format!("9:name=systemd:/kubepods/burstable/pod{{A}}/{{1}}/x\n{pods}"), A1);
        check(&format!("{pods}4:memory:/\n3:cpu,cpuacct:/\n0::/system.slice/x.service\n"), A1);
        check(&format!("{pods}4:memory:/kubepods/burstable/pod{{B}}/{{1}}\n"), None);
        check(&format!("4:memory:/kubepods/burstable/pod{{B}}/{{1}}\n{pods}"), None);
        check(&format!("{pods}4:memory:/kubepods/burstable/pod{{A}}/{{2}}\n"), None);
        check(&format!("{pods}4:memory:/kubepods/burstable/pod{{A}}\n"), None);
        check(&format!("{pods}4:memory:/elsewhere/pod{{A}}/{{1}}\n"), None);
        check(&format!("4:memory:/elsewhere/pod{{A}}/{{1}}\n{pods}"), None);
        // The path may have colons, and a line that is none tells nothing.
        check(&format!("{pods}4:memory:/a:b:c\n"), A1);
        check(&format!("{pods}4:memory\n"), None);
        check(&format!("x\n{pods}"), None);
        check("", None);
        check("\n", None);
    }

    /// Whoever may make groups below his own may call them as he likes.
    #[test]
    fn the_outermost_pod_counts() {
        let check = |path: &str, expected| {
            let groups = format!("8:pids:{path}\n");
            check("8:pids:/\n", &groups, expected);
            check("8:pids:/kubepods/pod{S}/{2}", &groups, expected);
        };
        check("/kubepods/pod{A}/{1}/pod{B}/{2}", A1);
        check("/kubepods/pod{A}/{1}/kubepods/burstable/pod{B}/{2}", A1);
        let slice = "/kubepods.slice/kubepods-pod{a}.slice";
        check(&format!("{slice}/cri-containerd-{{1}}.scope/kubepods-pod{{b}}.slice/x"), A1);
        check("/kubepods/pod{A}/{1}/..{2}/pod{B}/{2}", A1);
        // Below what is no container it is not told whose it is: of another engine, of a user, or a pod's with
        // a uid that somebody has made up.
        check("/docker/{1}/pod{B}/{2}", None);
        check("/docker/{1}/kubepods/burstable/pod{B}/{2}", None);
        check("/system.slice/docker-{1}.scope/kubepods/pod{B}/{2}", None);
        check("/user.slice/user-1000.slice/user@1000.service/kubepods/pod{B}/{2}", None);
        check("/kubepods/podmine/{1}/pod{B}/{2}", None);
        check("/kubepods.slice/kubepods-podmine.slice/x/pod{B}/{2}", None);
        check("/kubepods/burstable/pod{A}/pod{B}/{2}", None);
        check("/kubepods/burstable/pod{A}/crio-conmon-{1}/pod{B}/{2}", None);
        check("/kubepods-pod{a}.slice:cri-containerd:x/pod{B}/{2}", None);
    }

    /// What is above the group that both share is the same for both, whatever it is called.
    #[test]
    fn a_node_may_be_a_container_and_even_a_pod_s() {
        let inner = "/kubelet/kubepods/burstable/pod{A}/{1}";
        let nodes = ["/docker/{2}", "/lxc/node", "/kubepods/burstable/pod{B}/{2}", "/user.slice/x"];
        for node in nodes {
            // The agent is one of the node's own processes, or in a pod there.
            for agent in ["", "/system.slice/agent.service", "/kubelet/kubepods/pod{S}/{2}"] {
                let own = format!("8:pids:{node}{agent}\n");
                check(&own, &format!("8:pids:{node}{inner}\n"), A1);
                check(&own, &format!("8:pids:{node}{inner}/pod{{B}}/{{2}}\n"), A1);
                check(&own, &format!("8:pids:{node}/x/pod{{A}}/{{1}}\n"), None);
                check(&own, &format!("8:pids:/elsewhere{inner}\n"), None);
            }
        }
        // From the outer node the inner one is a pod like others.
        let outer = "8:pids:/kubepods/burstable/pod{B}/{1}/kubelet/kubepods/burstable/pod{A}/{2}\n";
        check("8:pids:/kubepods/burstable/pod{S}/{2}\n", outer, B1);
        check("8:pids:/system.slice/agent.service\n", outer, B1);
        // A root of the kubelet's own, seen by an agent in one of its pods.
        let rooted = "0::/any/root/kubepods/burstable/pod{A}/{1}\n";
        check("0::/any/root/kubepods/besteffort/pod{S}/{2}\n", rooted, A1);
        check("0::/\n", rooted, None);
    }

    /// What the kernel shows to an agent whose own group is the root of a namespace.
    #[test]
    fn paths_may_begin_at_the_agent_s_own_group() {
        let check = |path: &str, expected| check("0::/\n", &format!("0::{path}\n"), expected);
        check("/../../kubepods-besteffort-pod{a}.slice/cri-containerd-{1}.scope", A1);
        let burstable = "/../../../kubepods-burstable.slice/kubepods-burstable-pod{a}.slice";
        check(&format!("{burstable}/cri-containerd-{{1}}.scope"), A1);
        check("/../../pod{A}/{1}", A1);
        check("/../../../burstable/pod{A}/{1}", A1);
        check("/../../../pod{A}/{1}/pod{B}/{2}", A1);
        check("/../kubepods-burstable-pod{a}.slice:cri-containerd:{1}", A1);
        // The agent's own pod is not named, so whatever its containers name is not its.
        check("/../{1}", None);
        check("/../{1}/pod{B}/{2}", None);
        check("/../cri-containerd-{1}.scope/kubepods/pod{B}/{2}", None);
        check("/../../../../user.slice/pod{A}/{1}", None);
        check("/../../../../docker/{1}/kubepods/pod{A}/{1}", None);
    }

    #[test]
    fn the_agent_s_own_container_and_those_beside_it_are_not_told() {
        let own = "0::/kubepods/burstable/pod{A}/{1}\n";
        check(own, own, None);
        check(own, "0::/kubepods/burstable/pod{A}/{2}\n", None);
        check(own, "0::/kubepods/burstable/pod{A}/{2}/pod{B}/{1}\n", None);
        check(own, "0::/kubepods/burstable/pod{B}/{1}\n", B1);
        check(own, "0::/kubepods/pod{B}/{1}\n", B1);
        // Nothing is known of the agent's own: as if it were outside.
        check("", "0::/kubepods/pod{B}/{1}\n", B1);
        check("8:pids:/kubepods/pod{A}/{1}\n", "0::/kubepods/pod{B}/{1}\n", B1);
    }

    #[test]
    fn people_are_told_of_any_container() {
        #[track_caller]
        fn check(path: &str, pod: Option<&str>, id: Option<&str>) {
            let hint = hint(written(&format!("1:x:/\n0::{path}\n")).as_bytes());
            let (named, container) = hint.unwrap_or_default();
            assert_eq!(named.map(|it| it.to_string()).as_deref(), pod, "for {path}");
            assert_eq!(container.map(|it| it.to_string()).as_deref(), id, "for {path}");
        }
        check("/", None, None);
        check("/user.slice/user-0.slice/session-1.scope", None, None);
        check("/docker/{1}", None, Some(ONE));
        check("/docker/{1}/docker/{2}", None, Some(TWO));
        check("/machine.slice/libpod-{1}.scope/container", None, Some(ONE));
        check("/docker/{2}/kubelet/kubepods/burstable/pod{A}/{1}", Some(A), Some(ONE));
        check("/kubepods.slice/kubepods-pod{a}.slice/crio-{1}.scope/x", Some(A), Some(ONE));
        check("/kubepods-pod{a}.slice:cri-containerd:{1}", Some(A), Some(ONE));
        check("/kubepods/pod{A}", Some(A), None);
        check("/tripod/<script>", None, None);
    }
}
