//! The agent is replaced, the API server goes away: nothing is lost, and nothing is done twice.

use serde_json::json;

use crate::support::{
    cluster::{API_SERVER, Frozen, Killed, Namespace, until},
    daemon::Daemon,
    kubelet::{Order, Volume, keys},
    listener::{Listener, config, heard, wait_until_it_listens},
};

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn the_daemon_is_replaced_in_the_middle_of_updates() {
    let daemon = Daemon::install("base");
    let namespace = Namespace::new();
    let listener = Listener::annotated("steady", "steady");
    namespace.apply_all(&[config("steady", &json!({"key": "0"})), listener.pod()]);
    let pod = namespace.ready_pod("app=steady");
    wait_until_it_listens(&pod);
    daemon.wait_for_rules_of(&pod);

    let before = daemon.pod();
    let mut value = 0;
    let mut update = || {
        value += 1;
        namespace.apply_all(&[config("steady", &json!({"key": value.to_string()}))]);
        namespace.touch();
        format!("config/key={value}")
    };
    let first = update();
    namespace.touch_until(&first, || heard(&pod).contains(&first).then_some(()));
    daemon.restart();
    // As many as come while it is replaced.
    let mut last = update();
    while !daemon.is_rolled_out() {
        last = update();
    }
    daemon.wait_for_rollout();
    assert_ne!(daemon.pod().name(), before.name());
    namespace.touch_until(&last, || (heard(&pod).last()? == &last).then_some(()));
    // One more, so that whatever is done twice has been done by then.
    let fence = update();
    namespace.touch_until(&fence, || (heard(&pod).last()? == &fence).then_some(()));
    // A listener that answers late finds what the kubelet has put there meanwhile, and says that in the place of
    // what it was signalled for. So there are no more lines of a value than values since the one before.
    let heard = heard(&pod);
    let value = |line: &String| line.strip_prefix("config/key=")?.parse::<i64>().ok();
    let values: Vec<_> = heard.iter().filter_map(value).collect();
    let mut before = values[0] - 1;
    for same in values.chunk_by(|one, next| one == next) {
        let lines = i64::try_from(same.len()).unwrap();
        assert!(lines <= same[0] - before, "something was done twice: {heard:?}");
        before = same[0];
    }
}

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn the_api_server_is_frozen() {
    away(|| Frozen::process(API_SERVER));
}

/// Connections are refused, and when it is back everything is listed anew.
#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn the_api_server_is_killed() {
    away(Killed::api_server);
}

/// What is known goes on. How long it is away makes no difference to that; whoever waits for an answer
/// waits, so it is no longer than three updates take.
#[track_caller]
fn away<T>(stop: impl Fn() -> T) {
    let daemon = Daemon::install("base");
    let agent = daemon.pod();
    let namespace = Namespace::new();
    let known = Listener::annotated("known", "known");
    namespace.apply_all(&[config("known", &json!({"key": "0"})), known.pod()]);
    let pod = namespace.ready_pod("app=known");
    wait_until_it_listens(&pod);
    daemon.wait_for_rules_of(&pod);

    let stopped = stop();
    // The kubelet's part is played here, for it would put back what it knows.
    let kubelet = Frozen::process("kubelet");
    let dir = pod.volume("configmap", "config");
    let mut volume = Volume::taken_over(&dir, Order::NamesLast, keys(&[("key", "0")]));
    let mut expected = Vec::new();
    for value in ["1", "2", "3"] {
        volume.update(keys(&[("key", value)]));
        let line = format!("config/key={value}");
        until(&line, || heard(&pod).contains(&line).then_some(()));
        expected.push(line);
    }
    assert_eq!(heard(&pod), expected);
    drop(stopped);
    drop(kubelet);

    let new = Listener::annotated("new", "new");
    namespace.apply_all(&[config("new", &json!({"key": "0"})), new.pod()]);
    let pod = namespace.ready_pod("app=new");
    wait_until_it_listens(&pod);
    daemon.wait_for_rules_of(&pod);
    namespace.apply_all(&[config("new", &json!({"key": "1"}))]);
    let line = "config/key=1".to_owned();
    namespace.touch_until(&line, || heard(&pod).contains(&line).then_some(()));
    assert_eq!(heard(&pod), [line]);
    assert_eq!(agent.renewed().restarts(), 0);
}
