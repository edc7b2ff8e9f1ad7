//! A time line for the terminal: who answered when.

use crate::probe::Answer;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Characters of a row.
const WIDTH: u32 = 64;

/// A stretch of time to draw.
#[derive(Clone, Copy, Debug)]
pub struct Timeline {
    /// What happened, at the time 0 of the scale.
    pub event: Instant,
    /// How much is shown before it.
    pub before: Duration,
    /// How much is shown after it.
    pub after: Duration,
    /// Whether to use colours.
    pub colour: bool,
}

impl Timeline {
    /// One that shows an outage of this length well, in steps of two
    /// milliseconds or more: clients ask every millisecond.
    #[must_use]
    pub fn around(event: Instant, outage: Duration, colour: bool) -> Self {
        let after = (outage * 3 / 2).max(Duration::from_millis(120));
        Self { event, before: after / 4, after, colour }
    }

    /// A row: a block for each step of time in which an answer came, in a
    /// colour of 0 to 2.
    #[must_use]
    pub fn row(&self, name: &str, hue: usize, answers: &[Answer]) -> String {
        let step = self.step();
        let start = self.start();
        let mut text = String::new();
        for column in 0..WIDTH {
            let from = start + step * column;
            let answered = answers.iter().any(|a| a.at >= from && a.at < from + step);
            text.push(if answered { '█' } else { '·' });
        }
        if self.colour {
            let code = [32, 34, 35][hue % 3];
            text = text.replace('·', "\u{1b}[2m·\u{1b}[22m");
            text = format!("\u{1b}[{code}m{text}\u{1b}[0m");
        }
        format!("  {name:>8} {text}")
    }

    /// The scale below the rows, in milliseconds since the event.
    #[must_use]
    pub fn scale(&self) -> String {
        let step = self.step();
        let zero = self.before.as_nanos() / step.as_nanos().max(1);
        let zero = usize::try_from(zero).unwrap_or_default();
        let mut text = format!("  {:>8} {}", "ms", " ".repeat(zero));
        let _ = write!(text, "▲0");
        let rest = usize::try_from(WIDTH).unwrap_or_default().saturating_sub(zero + 2);
        let end = self.after.as_millis().to_string();
        let _ = write!(text, "{:>rest$}", format!("{end}▲"));
        text
    }

    fn step(&self) -> Duration {
        (self.before + self.after) / WIDTH
    }

    fn start(&self) -> Instant {
        self.event.checked_sub(self.before).unwrap_or(self.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_stand_where_answers_came() {
        let event = Instant::now();
        let ms = Duration::from_millis;
        let line = Timeline { event, before: ms(16), after: ms(48), colour: false };
        let answers: Vec<Answer> = [0, 1, 40]
            .map(|at| Answer { at: event + ms(at) + Duration::from_micros(500), by: "px1".into() })
            .to_vec();
        let row = line.row("px1", 0, &answers);
        let drawn: Vec<usize> =
            row.chars().skip(11).enumerate().filter(|(_, c)| *c == '█').map(|(i, _)| i).collect();
        assert_eq!(drawn, [16, 17, 56], "{row}");
        assert_eq!(line.scale().chars().skip(11).position(|c| c == '▲'), Some(16));
        assert_eq!(row.chars().count(), line.scale().chars().count());
    }
}
