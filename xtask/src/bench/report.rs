//! The table: what was measured, beside the goal, and the same as JSON.

use std::fmt;

use serde_json::{Map, Value, json};

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
    /// The measured number.
    pub(crate) measured: f64,
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
    fn is_met(self) -> bool {
        match self.bound {
            Bound::AtMost(most, _) => self.measured <= most,
            Bound::AtLeast(least, _) => self.measured >= least,
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

    /// The same with one.
    pub(crate) fn goal(self, measured: f64, bound: Bound) -> Self {
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
    fn json(&self) -> Value {
        let goal = self.goal.map(|goal| goal.bound.to_string());
        json!({ "value": self.value, "goal": goal, "is_met": self.goal.map(Goal::is_met) })
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_goals = self.rows.iter().any(|row| row.goal.is_some());
        let (goal, met) = if has_goals { ("goal", "met") } else { ("", "") };
        writeln!(f)?;
        line(f, &self.title, "", goal, met)?;
        for row in &self.rows {
            let goal = row.goal.map_or_else(String::new, |goal| goal.bound.to_string());
            let met = row.goal.map_or("", |goal| if goal.is_met() { "yes" } else { "no" });
            line(f, &format!("  {}", row.what), &row.shown, &goal, met)?;
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
    fn a_goal_is_met_or_not() {
        fn check(measured: f64, bound: Bound, shown: &str, is_met: bool) {
            let goal = Goal { measured, bound };
            assert_eq!((goal.is_met(), bound.to_string().as_str()), (is_met, shown));
        }
        check(1.5, Bound::AtMost(1.5, " x"), "<= 1.5 x", true);
        check(1.51, Bound::AtMost(1.5, " x"), "<= 1.5 x", false);
        check(50.0, Bound::AtLeast(50.0, " x"), ">= 50 x", true);
        check(49.9, Bound::AtLeast(50.0, " x"), ">= 50 x", false);
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
