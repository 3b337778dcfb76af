//! What happens when, case by case.

use super::*;

const INTERVAL: Duration = Duration::from_secs(1);

type Key = u8;

fn plan(steps: &[Reach], is_checked: bool) -> Plan {
    Plan { steps: steps.to_vec(), is_checked, min_interval: INTERVAL }
}

fn wanted(content: &[u8], at: Boot) -> Wanted {
    Wanted { digest: Digest::of(content), changed: Some(at), since: at }
}

const NOW: Boot = Boot(Duration::from_secs(1000));

#[test]
fn a_failed_action_is_tried_again_ever_more_slowly_until_newer_content_replaces_it() {
    let mut delivery =
        Delivery::<Key>::new(plan(&[Reach::One], false), wanted(b"0", NOW), |_| None);
    let receiver = Receiver { step: 0, target: None };
    let mut now = NOW;
    let mut waits = Vec::new();
    for attempt in 0..9 {
        assert_eq!(delivery.next(now, |_| true), Some(Task::Act(receiver)));
        let is_news = delivery.acted(receiver, Acted::Failed, now);
        assert_eq!(is_news, attempt == 0);
        let next = delivery.next_at(|_| true).unwrap();
        assert_eq!(delivery.retries_in(receiver, now), Some(next.since(now)));
        waits.push(next.since(now).as_millis());
        now = next;
    }
    assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
    delivery.want(wanted(b"1", now));
    assert_eq!(delivery.next(NOW, |_| true), Some(Task::Act(receiver)), "at once");
}

#[test]
fn bad_content_is_withheld_and_a_roll_back_is_nothing_new() {
    let receiver = Receiver { step: 0, target: Some(7) };
    let good = wanted(b"good", NOW);
    let mut delivery = Delivery::new(plan(&[Reach::Targets], true), good, |_| None);
    delivery.join(7, |_| Some(good.digest));
    delivery.want(wanted(b"bad", NOW));
    assert_eq!(delivery.next(NOW, |_| true), Some(Task::Check));
    assert_eq!(delivery.next(NOW, |_| true), None, "one check at a time");
    assert_eq!(delivery.checked(Some(false), NOW), Some(News::New));
    assert_eq!(delivery.withholds(7), Some(Withheld::Bad));
    assert_eq!(delivery.next(NOW, |_| true), None);
    // The same again, for the check itself may have been amiss; and slower each time.
    let again = NOW.after(FIRST_RECHECK);
    assert_eq!(delivery.next_at(|_| true), Some(again));
    assert_eq!(delivery.next(again, |_| true), Some(Task::Check));
    assert_eq!(delivery.checked(Some(false), again), Some(News::Old));
    assert_eq!(delivery.next_at(|_| true), Some(again.after(FIRST_RECHECK * 2)));

    delivery.want(good);
    assert_eq!(delivery.next(again, |_| true), None, "it has that");
    assert_eq!(delivery.withholds(7), None);
    delivery.want(wanted(b"better", again));
    assert_eq!(delivery.next(again, |_| true), Some(Task::Check));
    delivery.checked(Some(true), again);
    assert_eq!(delivery.next(again, |_| true), Some(Task::Act(receiver)));
}

#[test]
fn content_that_changes_while_it_is_checked_is_checked_again() {
    let mut delivery = Delivery::new(plan(&[Reach::Targets], true), wanted(b"0", NOW), |_| None);
    delivery.join(7, |_| None);
    assert_eq!(delivery.next(NOW, |_| true), Some(Task::Check));
    delivery.want(wanted(b"1", NOW));
    delivery.checked(Some(true), NOW);
    assert_eq!(delivery.next(NOW, |_| true), Some(Task::Check));
    // It was another for a while, and nobody knows which of them was checked.
    delivery.want(wanted(b"2", NOW));
    delivery.want(wanted(b"1", NOW));
    assert_eq!(delivery.next(NOW, |_| true), None, "one check at a time");
    assert_eq!(delivery.checked(Some(false), NOW), None);
    // It may be the check itself that changes it.
    assert_eq!(delivery.next(NOW, |_| true), None);
    let later = NOW.after(FIRST_RETRY);
    assert_eq!(delivery.next_at(|_| true), Some(later));
    assert_eq!(delivery.next(later, |_| true), Some(Task::Check));
    assert_eq!(delivery.checked(Some(true), later), None);
    let receiver = Receiver { step: 0, target: Some(7) };
    assert_eq!(delivery.next(later, |_| true), Some(Task::Act(receiver)));
}

#[test]
fn what_is_touched_whenever_it_is_checked_is_checked_ever_more_rarely_and_told_once() {
    let mut delivery = Delivery::new(plan(&[Reach::Targets], true), wanted(b"0", NOW), |_| None);
    delivery.join(7, |_| None);
    let mut now = NOW;
    let mut rows = Vec::new();
    for _ in 0..5 {
        assert_eq!(delivery.next(now, |_| true), Some(Task::Check));
        delivery.doubt_check();
        let told = delivery.checked(Some(true), now);
        let next = delivery.next_at(|_| true).unwrap().max(now);
        rows.push((told, next.since(now).as_millis()));
        now = next;
    }
    let news = Some(News::New);
    assert_eq!(rows, [(None, 0), (None, 500), (news, 1000), (None, 2000), (None, 4000)]);
    // A check that leaves something else each time is no better.
    delivery.want(wanted(b"1", now));
    assert_eq!(delivery.next_at(|_| true), Some(now));
    assert_eq!(delivery.next(now, |_| true), Some(Task::Check));
    delivery.want(wanted(b"2", now));
    delivery.checked(Some(true), now);
    assert_eq!(delivery.next_at(|_| true), Some(now.after(FIRST_RETRY * 16)));
}

#[test]
fn bad_content_that_comes_again_is_checked_and_told_again() {
    let [good, bad] = [b"good", b"bad!"].map(|text| wanted(text, NOW));
    let mut delivery = Delivery::new(plan(&[Reach::Targets], true), good, |_| None);
    delivery.join(7, |_| Some(good.digest));
    for _ in 0..2 {
        delivery.want(bad);
        assert_eq!(delivery.next(NOW, |_| true), Some(Task::Check));
        assert_eq!(delivery.checked(Some(false), NOW), Some(News::New));
        delivery.want(good);
        assert_eq!(delivery.next(NOW, |_| true), None);
    }
}

#[test]
fn a_target_that_is_reloaded_for_another_rule_is_waited_for() {
    let receiver = Receiver { step: 0, target: Some(7) };
    let mut delivery = Delivery::new(plan(&[Reach::Targets], false), wanted(b"0", NOW), |_| None);
    delivery.join(7, |_| None);
    assert_eq!(delivery.next(NOW, |_| false), None);
    let later = NOW.after(INTERVAL);
    delivery.spare(7, later);
    assert_eq!(delivery.next(NOW, |_| true), None);
    assert_eq!(delivery.next_at(|_| true), Some(later));
    assert_eq!(delivery.next(later, |_| true), Some(Task::Act(receiver)));
    assert_eq!(delivery.withholds(7), Some(Withheld::Busy));
    delivery.acted(receiver, Acted::Applied(Then::Confirm), later);
    assert_eq!(delivery.withholds(7), Some(Withheld::Busy));
    assert_eq!(delivery.held_until(later), Some(Boot::MAX));
    delivery.release(receiver);
    assert_eq!(delivery.withholds(7), None);
    assert_eq!(delivery.held_until(later), Some(later.after(INTERVAL)));
}

#[test]
fn a_check_waits_for_nobody_and_what_others_keep_is_not_due() {
    let mut delivery = Delivery::new(plan(&[Reach::Targets], true), wanted(b"0", NOW), |_| None);
    delivery.join(7, |_| None);
    assert!(delivery.next_at(|_| false).is_some(), "the check is due");
    assert_eq!(delivery.next(NOW, |_| false), Some(Task::Check));
    delivery.checked(Some(true), NOW);
    assert_eq!(delivery.next(NOW, |_| false), None);
    assert_eq!(delivery.next_at(|_| false), None);
    assert!(delivery.withheld(7, NOW), "it is news");
    assert!(!delivery.withheld(7, NOW), "it is none");
    assert!(delivery.next(NOW, |_| true).is_some());
}

#[test]
fn a_receiver_that_takes_the_place_of_another_rests_and_is_owed_as_that() {
    let receiver = Receiver { step: 0, target: Some(7) };
    let next = |then: Then, owes: bool, min_interval: Duration| {
        let mut old = Delivery::new(plan(&[Reach::Targets], false), wanted(b"0", NOW), |_| None);
        old.join(7, |_| None);
        old.next(NOW, |_| true).unwrap();
        old.acted(receiver, Acted::Applied(then), NOW);
        if owes {
            old.want(wanted(b"1", NOW));
        }
        let plan = Plan { min_interval, ..plan(&[Reach::Targets], false) };
        let mut new = Delivery::new(plan, wanted(b"new", NOW), |_| None);
        new.join(7, |_| None);
        new.succeed(receiver, &old, receiver);
        new.next_at(|_| true)
    };
    assert_eq!(next(Then::Rest, false, INTERVAL), None, "it has it");
    assert_eq!(next(Then::Rest, true, INTERVAL), Some(NOW.after(INTERVAL)));
    assert_eq!(next(Then::Rest, true, INTERVAL * 3), Some(NOW.after(INTERVAL * 3)));
    assert_eq!(next(Then::Rest, true, Duration::ZERO), Some(NOW));
    assert_eq!(next(Then::Confirm, true, INTERVAL), None, "it is being confirmed");
}
