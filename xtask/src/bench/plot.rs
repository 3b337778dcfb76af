//! Pictures of what was measured, as SVG.

use std::{fs, ops::Range, path::Path};

use anyhow::{Context as _, Result, anyhow};
use plotters::{
    coord::{
        Shift,
        ranged1d::{Ranged, ValueFormatter},
    },
    prelude::*,
};

/// The size of a picture, in pixels.
const SIZE: (u32, u32) = (860, 460);

/// How wide the names of the lines are, beside the picture so that they hide nothing, in pixels.
const NAMES: u32 = 190;

/// Where the first of them is, how far apart they are, and how far from the left, after a stroke of the line's
/// colour, in pixels.
const FIRST_NAME: i32 = 48;
const NAME_HEIGHT: i32 = 22;
const NAME_LEFT: i32 = 26;

/// Colours that are told apart also by who sees few of them (Okabe and Ito), on white and in print.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
];

/// A line of a picture.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// What a picture shows.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    /// How its file is called, without the ending.
    pub(crate) file: &'static str,
    pub(crate) title: String,
    pub(crate) across: &'static str,
    pub(crate) up: &'static str,
    /// Whether the axis upwards is logarithmic, as the other always is.
    pub(crate) is_log: bool,
    pub(crate) lines: Vec<Line>,
}

impl Picture {
    /// Draws it into a folder.
    ///
    /// # Errors
    ///
    /// Fails where it cannot be written.
    pub(crate) fn draw(&self, folder: &Path) -> Result<()> {
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            let (chart, names) = area.split_horizontally(SIZE.0 - NAMES);
            let drawn = if self.is_log { self.draw_log(&chart) } else { self.draw_linear(&chart) };
            drawn
                .and_then(|()| self.names(&names))
                .map_err(|error| anyhow!("cannot draw {}: {error}", self.file))?;
        }
        let path = folder.join(self.file).with_extension("svg");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn draw_linear(&self, area: &Area<'_>) -> Outcome {
        area.fill(&WHITE)?;
        let up = 0.0..self.span(|&(_, up)| up).end.max(1.0);
        let chart = self.builder(area).build_cartesian_2d(self.across().log_scale(), up)?;
        self.lines(chart)
    }

    fn draw_log(&self, area: &Area<'_>) -> Outcome {
        area.fill(&WHITE)?;
        let up = self.span(|&(_, up)| up);
        let up = (up.start / 1.5..up.end * 1.5).log_scale();
        let chart = self.builder(area).build_cartesian_2d(self.across().log_scale(), up)?;
        self.lines(chart)
    }

    fn builder<'a, 'b>(&self, area: &'a Area<'b>) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
        let mut builder = ChartBuilder::on(area);
        builder
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64);
        builder
    }

    /// Says which line is whose.
    fn names(&self, area: &Area<'_>) -> Outcome {
        area.fill(&WHITE)?;
        for (index, line) in self.lines.iter().enumerate() {
            let y = FIRST_NAME + NAME_HEIGHT * i32::try_from(index)?;
            let style = ShapeStyle::from(colour(index)).stroke_width(2);
            area.draw(&PathElement::new([(0, y), (NAME_LEFT - 8, y)], style))?;
            let above = y - NAME_HEIGHT / 3;
            area.draw(&Text::new(line.name.as_str(), (NAME_LEFT, above), ("sans-serif", 13)))?;
        }
        Ok(())
    }

    fn lines<X, Y>(&self, mut chart: Chart<'_, X, Y>) -> Outcome
    where
        X: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        chart
            .configure_mesh()
            .x_desc(self.across)
            .y_desc(self.up)
            .x_label_formatter(&|number| short(*number))
            .y_label_formatter(&|number| short(*number))
            .label_style(("sans-serif", 13))
            .light_line_style(WHITE)
            .draw()?;
        for (index, line) in self.lines.iter().enumerate() {
            let colour = colour(index);
            let style = ShapeStyle::from(colour).stroke_width(2);
            chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
            if line.points.len() < 20 {
                let dots = line.points.iter().map(|&it| Circle::new(it, 3, colour.filled()));
                chart.draw_series(dots)?;
            }
        }
        Ok(())
    }

    fn across(&self) -> Range<f64> {
        self.span(|&(across, _)| across)
    }

    fn span(&self, pick: impl Fn(&(f64, f64)) -> f64) -> Range<f64> {
        let all = self.lines.iter().flat_map(|line| line.points.iter().map(&pick));
        let (low, high) =
            all.fold((f64::MAX, f64::MIN), |(low, high), it| (low.min(it), high.max(it)));
        if low < high { low..high } else { 0.9 * low.min(1.0)..1.1 * high.max(1.0) }
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

type Chart<'a, X, Y> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// A number as it stands beside an axis.
fn short(number: f64) -> String {
    match number {
        large if large >= 1e6 => format!("{:.0} M", large / 1e6),
        large if large >= 1e4 => format!("{:.0} k", large / 1e3),
        middle if middle >= 10.0 || middle == 0.0 => format!("{middle:.0}"),
        // What is left of a sum of tenths is noise.
        small => format!("{}", (small * 1e6).round() / 1e6),
    }
}

/// Which part of the samples took at most how long: from the lowest to the highest.
pub(crate) fn distribution(name: &str, samples: &[f64]) -> Line {
    /// How many points are drawn at most.
    const POINTS: usize = 400;
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let count = sorted.len();
    let step = count.div_ceil(POINTS).max(1);
    let share = |index: usize| {
        let (above, all) = (u32::try_from(index + 1), u32::try_from(count));
        100.0 * f64::from(above.unwrap_or(u32::MAX)) / f64::from(all.unwrap_or(u32::MAX))
    };
    let points = sorted.iter().enumerate();
    let points = points.filter(|(index, _)| index % step == 0 || index + 1 == count);
    Line { name: name.to_owned(), points: points.map(|(index, &it)| (it, share(index))).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_ends_at_the_highest() {
        let line = distribution("x", &[3.0, 1.0, 2.0, 4.0]);
        assert_eq!(line.points, [(1.0, 25.0), (2.0, 50.0), (3.0, 75.0), (4.0, 100.0)]);
        let many: Vec<_> = (1..=1000).map(f64::from).collect();
        let line = distribution("x", &many);
        assert!(line.points.len() <= 401);
        assert_eq!(line.points.last(), Some(&(1000.0, 100.0)));
    }

    #[test]
    fn a_picture_has_its_lines_and_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        for is_log in [false, true] {
            let lines =
                vec![Line { name: "a < b".to_owned(), points: vec![(1.0, 2.0), (10.0, 3.0)] }];
            let title = "A title".to_owned();
            let picture = Picture { file: "x", title, across: "us", up: "%", is_log, lines };
            picture.draw(folder.path()).unwrap();
            let text = fs::read_to_string(folder.path().join("x.svg")).unwrap();
            assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
            assert!(text.contains("A title"), "{text}");
            let name = text.lines().position(|line| line == "a &lt; b").unwrap();
            let place = text.lines().nth(name - 1).unwrap();
            let x = u32::try_from(NAME_LEFT).unwrap() + SIZE.0 - NAMES;
            assert!(place.contains(&format!(r#"x="{x}""#)), "{place}");
        }
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.5, 0.1 + 0.2, 12.0, 1000.0, 20_000.0, 3e6].map(short);
        assert_eq!(shown, ["0", "0.5", "0.3", "12", "1000", "20 k", "3 M"]);
    }
}
