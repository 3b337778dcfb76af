//! The table: what was measured, beside the goal, and the same as JSON.

use std::fmt;

use serde_json::{Map, Value, json};

use super::stat::Confident;

/// What was measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    sections: Vec<Section>,
}

#[derive(Clone, Debug)]
struct Section {
    title: String,
    rows: Vec<Row>,
}

/// One thing that was measured.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What.
    pub(crate) what: String,
    /// How much, for a person.
    pub(crate) shown: String,
    /// How much, for a program.
    pub(crate) value: Value,
    /// What it is to reach, and what of it counts.
    pub(crate) goal: Option<Goal>,
}

/// What is to be reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    /// The measured number, and between what it lies for all we know.
    pub(crate) measured: Confident,
    /// The bound.
    pub(crate) bound: Bound,
}

/// A bound on a number, and its unit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtMost(f64, &'static str),
    AtLeast(f64, &'static str),
}

impl Goal {
    /// `None` where the number is too uncertain to say.
    fn is_met(self) -> Option<bool> {
        let Confident { low, high, .. } = self.measured;
        let (is_low_met, is_high_met) = (self.bound.is_kept(low), self.bound.is_kept(high));
        (is_low_met == is_high_met).then_some(is_low_met)
    }

    fn verdict(self) -> &'static str {
        match self.is_met() {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unclear",
        }
    }
}

impl Bound {
    fn is_kept(self, number: f64) -> bool {
        match self {
            Self::AtMost(most, _) => number <= most,
            Self::AtLeast(least, _) => number >= least,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(number, unit) => write!(f, "<= {number}{unit}"),
            Self::AtLeast(number, unit) => write!(f, ">= {number}{unit}"),
        }
    }
}

impl Row {
    /// A row without a goal.
    pub(crate) fn new(what: impl Into<String>, shown: impl Into<String>, value: Value) -> Self {
        Self { what: what.into(), shown: shown.into(), value, goal: None }
    }

    /// The same with one, and a number that is certain.
    pub(crate) fn goal(self, number: f64, bound: Bound) -> Self {
        self.goal_within(Confident { median: number, low: number, high: number }, bound)
    }

    /// The same with one, and a number that lies somewhere.
    pub(crate) fn goal_within(self, measured: Confident, bound: Bound) -> Self {
        Self { goal: Some(Goal { measured, bound }), ..self }
    }
}

impl Report {
    /// Writes down a section, and prints it: whoever waits sees how far we are.
    pub(crate) fn add(&mut self, title: impl Into<String>, rows: Vec<Row>) {
        let section = Section { title: title.into(), rows };
        print!("{section}");
        self.sections.push(section);
    }

    /// The titles, and of each row what it is about, what was measured, the goal, and whether it is met.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (&str, Vec<[String; 4]>)> {
        self.sections.iter().map(|it| (it.title.as_str(), it.rows.iter().map(Row::cells).collect()))
    }

    /// All of it, for a program.
    pub(crate) fn json(&self, machine: &str) -> Value {
        let mut sections = Map::new();
        for section in &self.sections {
            let rows = section.rows.iter().map(|row| (row.what.clone(), row.json())).collect();
            sections.insert(section.title.clone(), Value::Object(rows));
        }
        json!({ "machine": machine, "measured": sections })
    }
}

impl Row {
    fn cells(&self) -> [String; 4] {
        let goal = self.goal.map_or_else(String::new, |goal| goal.bound.to_string());
        let met = self.goal.map_or("", Goal::verdict);
        [self.what.clone(), self.shown.clone(), goal, met.to_owned()]
    }

    fn json(&self) -> Value {
        let goal = self.goal.map(|goal| goal.bound.to_string());
        json!({ "value": self.value, "goal": goal, "is_met": self.goal.and_then(Goal::is_met) })
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_goals = self.rows.iter().any(|row| row.goal.is_some());
        let (goal, met) = if has_goals { ("goal", "met") } else { ("", "") };
        writeln!(f)?;
        line(f, &self.title, "", goal, met)?;
        for [what, shown, goal, met] in self.rows.iter().map(Row::cells) {
            line(f, &format!("  {what}"), &shown, &goal, &met)?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, what: &str, shown: &str, goal: &str, met: &str) -> fmt::Result {
    // What is long on the left and short on the right shares its columns.
    let room = 62_usize.saturating_sub(what.chars().count() + 1);
    writeln!(f, "{}", format!("{what} {shown:>room$} {goal:>11}  {met}").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_or_not_or_it_cannot_be_told() {
        fn check(low: f64, high: f64, bound: Bound, shown: &str, verdict: &str) {
            let measured = Confident { median: f64::midpoint(low, high), low, high };
            let goal = Goal { measured, bound };
            assert_eq!((goal.verdict(), bound.to_string().as_str()), (verdict, shown));
        }
        check(1.5, 1.5, Bound::AtMost(1.5, " x"), "<= 1.5 x", "yes");
        check(1.51, 1.51, Bound::AtMost(1.5, " x"), "<= 1.5 x", "no");
        check(1.4, 1.51, Bound::AtMost(1.5, " x"), "<= 1.5 x", "unclear");
        check(50.0, 51.0, Bound::AtLeast(50.0, " x"), ">= 50 x", "yes");
        check(49.8, 49.9, Bound::AtLeast(50.0, " x"), ">= 50 x", "no");
        check(49.9, 50.1, Bound::AtLeast(50.0, " x"), ">= 50 x", "unclear");
    }

    #[test]
    fn rows_line_up_in_80_columns() {
        let section = Section {
            title: "Latency".to_owned(),
            rows: vec![
                Row::new("bare", "71 us", json!(71)),
                Row::new("a long name of what", "1.31 x", json!(1.31))
                    .goal(1.31, Bound::AtMost(1.5, " x")),
            ],
        };
        let expected = "
Latency                                                               goal  met
  bare                                                   71 us
  a long name of what                                   1.31 x    <= 1.5 x  yes
";
        assert_eq!(section.to_string(), expected);
    }
}
