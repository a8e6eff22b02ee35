//! Curves as SVG: scales, ticks and paths. Series differ in colour, in their dashes and in the shape of their points.

use std::fmt::Write;

use serde::Serialize;

use super::curve::Curve;
use super::page::{Limits, number};

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 24.0;
/// Curves of at most so many points have each of them marked.
const MARKED: usize = 40;
/// Kinds of lines in the style sheet.
const STYLES: usize = 6;
/// From this ratio on values are drawn by their logarithms.
const WIDE: f64 = 60.0;

#[derive(Debug, Serialize)]
pub struct Chart {
    pub title: String,
    /// What is seen, for who does not see it.
    pub label: String,
    pub width: f64,
    pub height: f64,
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
    pub x_ticks: Vec<Tick>,
    pub y_ticks: Vec<Tick>,
    pub logarithmic: bool,
    pub series: Vec<Series>,
}

#[derive(Debug, Serialize)]
pub struct Tick {
    pub at: f64,
    pub text: String,
}

#[derive(Debug, Serialize)]
pub struct Series {
    pub name: String,
    /// From 0.
    pub style: usize,
    pub path: String,
    /// Points of a short curve, as a path of small shapes.
    pub marks: String,
}

/// A chart of some curves by step; none of curves without values. One that `may_be_logarithmic` is where values lie far
/// apart.
pub fn chart(
    title: &str,
    curves: &[(String, &Curve)],
    may_be_logarithmic: bool,
    limits: &Limits,
) -> Option<Chart> {
    let all = || curves.iter().map(|(_, curve)| *curve);
    let least = all().map(|curve| curve.least().1).reduce(f64::min)?;
    let greatest = all().map(|curve| curve.greatest().1).reduce(f64::max)?;
    let steps = all().map(|curve| curve.first.0).min()?..=all().map(|curve| curve.last.0).max()?;
    let logarithmic = may_be_logarithmic && least > 0.0 && greatest / least > WIDE;
    let y = Scale::of_values(least, greatest, logarithmic);
    let x = Scale::of_steps(*steps.start(), *steps.end());
    let bottom = HEIGHT - BOTTOM;
    let place = |(step, value): (u64, f64)| {
        (
            LEFT + x.share(step as f64) * (WIDTH - LEFT - RIGHT),
            bottom - y.share(value) * (bottom - TOP),
        )
    };
    let series = curves.iter().enumerate().map(|(at, (name, curve))| {
        let points = curve.points(limits.buckets);
        let places: Vec<(f64, f64)> = points.into_iter().map(place).collect();
        let marks = match places.len() <= MARKED {
            true => places.iter().map(|&place| mark(at, place)).collect(),
            false => String::new(),
        };
        Series {
            name: name.clone(),
            style: at % STYLES,
            path: path(&places),
            marks,
        }
    });
    let told = curves.iter().map(|(name, curve)| {
        let [(from, first), (to, last)] = [curve.first, curve.last];
        let (first, last) = (number(first), number(last));
        format!("{name} goes from {first} at step {from} to {last} at step {to}")
    });
    Some(Chart {
        title: title.to_string(),
        label: told.collect::<Vec<_>>().join("; "),
        width: WIDTH,
        height: HEIGHT,
        left: LEFT,
        right: WIDTH - RIGHT,
        top: TOP,
        bottom,
        x_ticks: x.ticks(|at| place((at as u64, least)).0, 5),
        y_ticks: y.ticks(|at| place((0, at)).1, 5),
        logarithmic,
        series: series.collect(),
    })
}

fn path(places: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (at, (x, y)) in places.iter().enumerate() {
        let command = if at == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{command}{x:.1} {y:.1}");
    }
    path
}

/// A square, a diamond or a triangle around a place.
fn mark(series: usize, (x, y): (f64, f64)) -> String {
    match series % 3 {
        0 => format!("M{:.1} {:.1}h4v4h-4z", x - 2.0, y - 2.0),
        1 => format!("M{x:.1} {:.1}l3 3l-3 3l-3-3z", y - 3.0),
        _ => format!("M{x:.1} {:.1}l3 5h-6z", y - 3.0),
    }
}

/// Where values lie between the ends of an axis.
struct Scale {
    from: f64,
    to: f64,
    logarithmic: bool,
    whole: bool,
}

impl Scale {
    fn of_steps(from: u64, to: u64) -> Self {
        Self {
            from: from as f64,
            to: to.max(from + 1) as f64,
            logarithmic: false,
            whole: true,
        }
    }

    fn of_values(least: f64, greatest: f64, logarithmic: bool) -> Self {
        let room = match greatest > least {
            true => 0.04 * (greatest - least),
            false if least == 0.0 => 1.0,
            false => 0.1 * least.abs(),
        };
        let (from, to) = match logarithmic {
            true => (least / 1.1, greatest * 1.1),
            // Room below must not make a loss look negative.
            false if least >= 0.0 => ((least - room).max(0.0), greatest + room),
            false => (least - room, greatest + room),
        };
        Self {
            from,
            to,
            logarithmic,
            whole: false,
        }
    }

    /// From 0 at the beginning of the axis to 1 at its end.
    fn share(&self, value: f64) -> f64 {
        let share = match self.logarithmic {
            true => (value / self.from).ln() / (self.to / self.from).ln(),
            false => (value - self.from) / (self.to - self.from),
        };
        share.clamp(0.0, 1.0)
    }

    fn ticks(&self, place: impl Fn(f64) -> f64, about: usize) -> Vec<Tick> {
        let values = match self.logarithmic {
            true => decades(self.from, self.to, about),
            false => {
                let apart = round_number((self.to - self.from) / about as f64);
                let apart = if self.whole { apart.max(1.0) } else { apart };
                let first = (self.from / apart).ceil() as i64;
                let last = (self.to / apart).floor() as i64;
                (first..=last).map(|n| n as f64 * apart).collect()
            }
        };
        let texts = values.iter().map(|&value| short(value));
        (values.iter().zip(texts))
            .map(|(&value, text)| Tick {
                at: (place(value) * 10.0).round() / 10.0,
                text,
            })
            .collect()
    }
}

/// 1, 2 or 5 times a power of ten, not less than `least`.
fn round_number(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0];
    let fits = times.iter().find(|&&times| times * power >= least * 0.999);
    fits.unwrap_or(&10.0) * power
}

fn decades(from: f64, to: f64, about: usize) -> Vec<f64> {
    let (first, last) = (from.log10().ceil() as i32, to.log10().floor() as i32);
    let apart = ((last - first) as usize / about.max(1) + 1) as i32;
    let all = (first..=last).filter(|power| (power - first) % apart == 0);
    all.map(|power| 10f64.powi(power)).collect()
}

/// A tick's number, in few characters.
fn short(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if size < 1e-12 => "0".to_string(),
        _ if size >= 1e6 => {
            format!("{:.4}", value / 1e6)
                .trim_end_matches('0')
                .trim_end_matches('.')
                .to_string()
                + "M"
        }
        _ if size >= 1e4 => {
            format!("{:.3}", value / 1e3)
                .trim_end_matches('0')
                .trim_end_matches('.')
                .to_string()
                + "k"
        }
        _ if size < 1e-2 => {
            let text = format!("{value:.2e}");
            let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
            format!(
                "{}e{power}",
                digits.trim_end_matches('0').trim_end_matches('.')
            )
        }
        _ => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        let texts = |scale: &Scale| -> Vec<String> {
            let ticks = scale.ticks(|at| at, 5).into_iter();
            ticks.map(|tick| tick.text).collect()
        };
        assert_eq!(texts(&Scale::of_steps(0, 24)), ["0", "5", "10", "15", "20"]);
        assert_eq!(texts(&Scale::of_steps(1, 2)), ["1", "2"]);
        let values = Scale::of_values(2.1, 3.9, false);
        assert_eq!(texts(&values), ["2.5", "3", "3.5"]);
        let rates = Scale::of_values(3e-5, 3e-4, false);
        assert_eq!(texts(&rates), ["1e-4", "2e-4", "3e-4"]);
        let wide = Scale::of_values(0.5, 20_000.0, true);
        assert_eq!(texts(&wide), ["1", "10", "100", "1000", "10k"]);
    }

    #[test]
    fn a_flat_curve_and_a_single_point_are_drawn() {
        let limits = Limits::falling().next().unwrap();
        let curve = Curve::new(1, 0.0);
        let drawn = chart("t", &[("a".into(), &curve)], true, &limits).unwrap();
        assert!(!drawn.series[0].marks.is_empty());
        assert!(
            !drawn.series[0].path.contains("NaN"),
            "{}",
            drawn.series[0].path
        );
        assert!(chart("t", &[], true, &limits).is_none());
    }
}
