//! A time line as a picture for the documents: who answered when, of a real run.

use crate::probe::Answer;
use crate::timeline::Timeline;
use std::fmt::Write as _;

const LEFT: u32 = 80;
/// A pixel is a step of time.
const WIDTH: u32 = 700;
const ROW: u32 = 30;
const TOP: u32 = 40;

/// A row: a name, and the answers that belong to it.
pub type Row<'a> = (&'a str, Vec<Answer>);

/// The picture, in SVG: a bar wherever answers came; below it milliseconds
/// since the event. `title` says what happened, and `source` where it is from.
#[must_use]
pub fn svg(line: &Timeline, title: &str, source: &str, rows: &[Row<'_>]) -> String {
    let height = TOP + ROW * u32::try_from(rows.len()).unwrap_or(0) + 40;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" role=\"img\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>{title}</title>\n<desc>{source}</desc>\n\
         <style>text {{ fill: #333 }} .t {{ stroke: #888 }} .h0 {{ fill: #2e7d32 }} .h1 {{ fill: #1565c0 }} .h2 {{ fill: #8e24aa }} \
         @media (prefers-color-scheme: dark) {{ text {{ fill: #ddd }} .h0 {{ fill: #81c784 }} .h1 {{ fill: #64b5f6 }} .h2 {{ fill: #ce93d8 }} }}</style>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\">{title}</text>\n",
        LEFT + WIDTH + 20
    );
    let mut y = TOP;
    for (hue, (name, answers)) in rows.iter().enumerate() {
        let _ = writeln!(text, "<text x=\"10\" y=\"{}\">{name}</text>", y + 18);
        for (from, length) in bars(line, answers) {
            let _ = writeln!(
                text,
                "<rect class=\"h{}\" x=\"{}\" y=\"{y}\" width=\"{length}\" height=\"{}\"/>",
                hue % 3,
                LEFT + from,
                ROW - 8
            );
        }
        y += ROW;
    }
    let whole = line.before + line.after;
    let zero = line.before.as_millis() * u128::from(WIDTH) / whole.as_millis().max(1);
    let zero = LEFT + u32::try_from(zero).unwrap_or(0);
    let (above, below, right) = (TOP - 4, y + 18, LEFT + WIDTH);
    let after = line.after.as_millis();
    let _ = writeln!(
        text,
        "<path class=\"t\" d=\"M{zero} {above} V{y}\" stroke-dasharray=\"4\"/>\n\
         <text x=\"{zero}\" y=\"{below}\" text-anchor=\"middle\">0 ms</text>\n\
         <text x=\"{right}\" y=\"{below}\" text-anchor=\"end\">{after} ms</text>\n</svg>"
    );
    text
}

/// Where answers came, in pixels: beginnings and lengths.
fn bars(line: &Timeline, answers: &[Answer]) -> Vec<(u32, u32)> {
    let start = line.event.checked_sub(line.before).unwrap_or(line.event);
    let step = (line.before + line.after) / WIDTH;
    let mut hit: Vec<u32> = answers
        .iter()
        .filter_map(|a| a.at.checked_duration_since(start))
        .filter_map(|since| u32::try_from(since.as_nanos() / step.as_nanos().max(1)).ok())
        .filter(|column| *column < WIDTH)
        .collect();
    hit.sort_unstable();
    hit.dedup();
    // Clients ask each millisecond: what is nearer than three was no gap.
    let near = u32::try_from(3_000_000 / step.as_nanos().max(1)).unwrap_or(1).max(1);
    let mut bars: Vec<(u32, u32)> = Vec::new();
    for column in hit {
        match bars.last_mut() {
            Some((from, length)) if column <= *from + *length + near => *length = column - *from + 1,
            Some(_) | None => bars.push((column, 1)),
        }
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_bar_ends_where_answers_do() {
        let event = Instant::now();
        let ms = Duration::from_millis;
        let line = Timeline { event, before: ms(100), after: ms(600), colour: false };
        let answer = |at: u64| Answer { at: event + ms(at), by: "px1".into() };
        let answers: Vec<Answer> = (0..50).chain(400..500).map(answer).collect();
        assert_eq!(bars(&line, &answers), [(100, 50), (500, 100)]);
        let drawn = svg(&line, "a title", "a source", &[("px1", answers)]);
        roxmltree::Document::parse(&drawn).expect("it is XML");
        assert_eq!(drawn.matches("<rect").count(), 2);
    }

    /// The pictures in the documents are of runs of `make demo`.
    #[test]
    fn the_documents_pictures_are_of_real_runs() {
        for name in ["failover.svg", "switchover.svg"] {
            let path = crate::documents::root().join("docs").join(name);
            let text = std::fs::read_to_string(path).expect("make demo PICTURES=docs");
            let document = roxmltree::Document::parse(&text).expect("it is XML");
            let desc =
                document.descendants().find(|n| n.has_tag_name(("http://www.w3.org/2000/svg", "desc")));
            assert!(desc.and_then(|d| d.text()).is_some_and(|d| d.starts_with("make demo PICTURES=docs")));
        }
        let page = include_str!("../../docs/operators.md");
        assert!(page.contains("](failover.svg)") && page.contains("](switchover.svg)"));
    }
}
