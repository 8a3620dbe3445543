//! Series and bars -> inline SVG. PURE.
//!
//! Drawn with stand-in colours, which are then replaced by the style sheet's variables:
//! one drawing is right on light and on dark ground.
#![deny(clippy::disallowed_methods)]

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Where a label or a line cannot be drawn. Cannot happen with texts in memory, but the
/// drawing library says it may.
#[derive(Debug, thiserror::Error)]
#[error("draw {chart}: {cause}")]
pub struct Error {
    chart: &'static str,
    cause: String,
}

/// A colour of the style sheet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ink {
    /// Axes and texts.
    Faint,
    /// Strong texts.
    Strong,
    /// Lines of the grid.
    Grid,
    /// One of the series, from 0; they repeat after [`SERIES`].
    Series(usize),
}

/// Colours of series before they repeat.
pub const SERIES: usize = 6;

impl Ink {
    fn stand_in(self) -> RGBColor {
        match self {
            Self::Faint => RGBColor(1, 1, 254),
            Self::Strong => RGBColor(1, 2, 254),
            Self::Grid => RGBColor(1, 3, 254),
            Self::Series(index) => RGBColor(2, (index % SERIES) as u8 + 1, 254),
        }
    }

    fn variable(self) -> String {
        match self {
            Self::Faint => "var(--faint)".to_owned(),
            Self::Strong => "var(--ink)".to_owned(),
            Self::Grid => "var(--line)".to_owned(),
            Self::Series(index) => format!("var(--s{})", index % SERIES + 1),
        }
    }
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stroke {
    /// Solid.
    Solid,
    /// Thin, with a dot at each point.
    Dotted,
    /// Dashed.
    Dashed,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its colour.
    pub ink: Ink,
    /// Its stroke.
    pub stroke: Stroke,
    /// Its points: requests done, percent.
    pub points: Vec<(f64, f64)>,
}

/// One bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Left of it.
    pub label: String,
    /// Its length.
    pub value: f64,
    /// Right of it.
    pub text: String,
    /// Its colour.
    pub ink: Ink,
}

/// What a chart is for people who do not see it.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Unique in the document.
    pub id: &'a str,
    /// A short name.
    pub title: &'a str,
    /// What it shows, with the figures.
    pub description: &'a str,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn font(size: u32, ink: Ink) -> TextStyle<'static> {
    // Set smaller by the SVG backend; 1.24 undoes that.
    ("sans-serif", f64::from(size) * 1.24)
        .into_font()
        .color(&ink.stand_in())
}

/// Percent over requests.
///
/// # Errors
/// See [`Error`].
pub fn lines(about: &About<'_>, lines: &[Line], width: u32) -> Result<String, Error> {
    let size = (width, 300);
    let last = lines
        .iter()
        .flat_map(|line| &line.points)
        .map(|point| point.0)
        .fold(2.0, f64::max);
    draw(about, size, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin_top(12)
            .margin_right(18)
            .x_label_area_size(46)
            .y_label_area_size(58)
            .build_cartesian_2d(1.0..last, 0.0..100.0)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(Ink::Grid.stand_in())
            .light_line_style(TRANSPARENT)
            .axis_style(Ink::Faint.stand_in())
            .x_labels((last as usize).min(10))
            .y_labels(6)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0} %"))
            .x_label_style(font(13, Ink::Faint))
            .y_label_style(font(13, Ink::Faint))
            .x_desc("requests done")
            .axis_desc_style(font(13, Ink::Faint))
            .draw()?;
        for line in lines {
            let points = line.points.iter().copied();
            let colour = line.ink.stand_in();
            match line.stroke {
                Stroke::Solid => {
                    chart.draw_series(LineSeries::new(points, colour.stroke_width(3)))?;
                }
                Stroke::Dotted => {
                    chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(1)))?;
                    chart.draw_series(points.map(|at| Circle::new(at, 2, colour.filled())))?;
                }
                Stroke::Dashed => {
                    let style = colour.stroke_width(2);
                    chart.draw_series(DashedLineSeries::new(points, 7, 5, style))?;
                }
            }
        }
        Ok(())
    })
}

/// Bars from left to right, with their texts beside them.
///
/// # Errors
/// See [`Error`].
pub fn bars(about: &About<'_>, bars: &[Bar], width: u32) -> Result<String, Error> {
    const ROW: i32 = 34;
    const CHARACTER: i32 = 8;
    let widest = |text: fn(&Bar) -> &String| {
        let most = bars.iter().map(|bar| text(bar).chars().count()).max();
        most.unwrap_or(0) as i32 * CHARACTER
    };
    let left = widest(|bar| &bar.label) + 14;
    let room = (width as i32 - left - widest(|bar| &bar.text) - 16).max(40);
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let height = ROW * bars.len().max(1) as i32 + 12;
    draw(about, (width, height as u32), |area| {
        let anchor = |style: TextStyle<'static>, h| style.pos(Pos::new(h, VPos::Center));
        for (index, bar) in bars.iter().enumerate() {
            let top = 6 + ROW * index as i32;
            let middle = top + ROW / 2;
            let length = if most > 0.0 {
                (f64::from(room) * bar.value / most).round() as i32
            } else {
                0
            };
            area.draw(&Text::new(
                bar.label.clone(),
                (left - 10, middle),
                anchor(font(13, Ink::Faint), HPos::Right),
            ))?;
            area.draw(&Rectangle::new(
                [(left, top + 6), (left + length.max(1), top + ROW - 6)],
                bar.ink.stand_in().filled(),
            ))?;
            area.draw(&Text::new(
                bar.text.clone(),
                (left + length.max(1) + 8, middle),
                anchor(font(13, Ink::Strong), HPos::Left),
            ))?;
        }
        area.draw(&PathElement::new(
            vec![(left, 2), (left, height - 4)],
            Ink::Faint.stand_in(),
        ))?;
        Ok(())
    })
}

fn draw(
    about: &About<'_>,
    size: (u32, u32),
    paint: impl Fn(&Area<'_>) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<String, Error> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        paint(&area)
            .and_then(|()| Ok(area.present()?))
            .map_err(|error| Error {
                chart: "a chart",
                cause: error.to_string(),
            })?;
    }
    Ok(finish(&svg, about, size))
}

/// The style sheet's colours, a size that follows the page, and words for readers.
fn finish(svg: &str, about: &About<'_>, (width, height): (u32, u32)) -> String {
    let mut svg = svg.to_owned();
    let inks = [Ink::Faint, Ink::Strong, Ink::Grid]
        .into_iter()
        .chain((0..SERIES).map(Ink::Series));
    for ink in inks {
        let RGBColor(red, green, blue) = ink.stand_in();
        let stand_in = format!("\"#{red:02X}{green:02X}{blue:02X}\"");
        svg = svg.replace(&stand_in, &format!("\"{}\"", ink.variable()));
    }
    let inside = svg.split_once('>').map_or("", |(_, inside)| inside);
    let id = super::html::escape(about.id);
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" \
         aria-labelledby=\"{id}-t {id}-d\">\n<title id=\"{id}-t\">{}</title>\n\
         <desc id=\"{id}-d\">{}</desc>{inside}",
        super::html::escape(about.title),
        super::html::escape(about.description),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About<'_> = About {
        id: "c",
        title: "a <b>",
        description: "d & e",
    };

    #[test]
    fn a_chart_has_words_and_only_the_style_sheets_colours() {
        let line = |ink, stroke| Line {
            ink,
            stroke,
            points: vec![(1.0, 0.0), (2.0, 50.0), (30.0, 90.0)],
        };
        let svg = lines(
            &ABOUT,
            &[
                line(Ink::Series(0), Stroke::Solid),
                line(Ink::Series(7), Stroke::Dotted),
                line(Ink::Faint, Stroke::Dashed),
            ],
            640,
        )
        .unwrap();
        assert!(svg.contains("<title id=\"c-t\">a &lt;b&gt;</title>"));
        assert!(svg.contains("aria-labelledby=\"c-t c-d\""));
        assert!(svg.contains("var(--s1)") && svg.contains("var(--s2)"));
        assert!(
            !svg.contains("\"#"),
            "a colour of the drawing library is left"
        );
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn texts_of_bars_are_escaped_and_nothing_to_draw_is_no_error() {
        let bar = Bar {
            label: "<script>".to_owned(),
            value: 0.0,
            text: "0".to_owned(),
            ink: Ink::Series(0),
        };
        let svg = bars(&ABOUT, &[bar], 400).unwrap();
        assert!(svg.contains("&lt;script&gt;") && !svg.contains("<script"));
        assert!(bars(&ABOUT, &[], 400).is_ok());
        assert!(lines(&ABOUT, &[], 400).is_ok());
    }
}
