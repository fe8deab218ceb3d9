//! A table that fits: where it is narrow, columns are left out, the least wanted first. They can be told beneath
//! each row.

use super::paint::{Paint, Tone};
use super::words::wrap;

/// One column.
pub struct Column {
    pub title: &'static str,
    /// Numbers stand to the right.
    pub is_number: bool,
    /// The one with the highest number is left out first.
    pub rank: u8,
}

/// What stands in one column of one row.
pub struct Cell {
    pub text: String,
    pub tone: Option<Tone>,
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell { text, tone: None }
    }
}

/// The columns that are shown, by their numbers, each with its width.
pub struct Shape(Vec<(usize, usize)>);

impl Shape {
    /// As much as goes into `width`, but one column in any case.
    pub fn of(columns: &[Column], rows: &[Vec<Cell>], width: usize) -> Shape {
        let widest = |n: usize| {
            let cells = rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.text.chars().count());
            cells.chain([columns[n].title.len()]).max().unwrap_or_default()
        };
        let mut shown: Vec<(usize, usize)> = (0..columns.len()).map(|n| (n, widest(n))).collect();
        while shown.len() > 1
            && shown.iter().map(|(_, wide)| wide + 2).sum::<usize>() > width.saturating_add(2)
        {
            let least = shown.iter().enumerate().max_by_key(|(_, (n, _))| columns[*n].rank);
            let Some((at, _)) = least else { break };
            shown.remove(at);
        }
        Shape(shown)
    }

    /// The titles, padded.
    pub fn head(&self, columns: &[Column]) -> String {
        let cell = |(n, width): &(usize, usize)| pad(columns[*n].title, *width, columns[*n].is_number);
        self.0.iter().map(cell).collect::<Vec<_>>().join("  ")
    }

    /// The cells that are shown, padded, with what stands between them.
    pub fn line(&self, columns: &[Column], row: &[Cell]) -> Vec<(String, Option<Tone>)> {
        let mut line = Vec::with_capacity(2 * self.0.len());
        for (n, width) in &self.0 {
            if !line.is_empty() {
                line.push(("  ".to_owned(), None));
            }
            if let Some(cell) = row.get(*n) {
                line.push((pad(&cell.text, *width, columns[*n].is_number), cell.tone));
            }
        }
        line
    }

    /// The cells that are not shown, each with its title, in lines of at most `width` after an indent of two.
    pub fn beneath(&self, columns: &[Column], row: &[Cell], width: usize) -> Vec<String> {
        let is_shown = |n| self.0.iter().any(|(shown, _)| *shown == n);
        let left_out = columns.iter().zip(row).enumerate().filter(|(n, _)| !is_shown(*n));
        let mut pieces: Vec<String> = left_out
            .map(|(_, (column, cell))| format!("{} {},", column.title.to_lowercase(), cell.text))
            .collect();
        // The last one.
        if let Some(last) = pieces.last_mut() {
            last.pop();
        }
        let lines = wrap(pieces.iter().map(String::as_str), width.saturating_sub(2));
        lines.into_iter().map(|line| format!("  {line}")).collect()
    }
}

/// The cells of a line, as they are printed.
pub fn print(line: Vec<(String, Option<Tone>)>, paint: Paint) -> String {
    let cells = line.into_iter().map(|(text, tone)| match tone {
        Some(tone) => paint.tone(tone, &text),
        None => text,
    });
    cells.collect::<String>().trim_end().to_owned()
}

fn pad(text: &str, width: usize, is_number: bool) -> String {
    if is_number { format!("{text:>width$}") } else { format!("{text:width$}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_least_is_left_out_first() {
        let columns = [
            Column { title: "NAME", is_number: false, rank: 0 },
            Column { title: "ID", is_number: true, rank: 2 },
            Column { title: "BYTES", is_number: true, rank: 1 },
        ];
        let row = |name: &str, id: &str, bytes: &str| {
            [name, id, bytes].map(|text| Cell::from(text.to_owned())).into_iter().collect::<Vec<_>>()
        };
        let rows = [row("web", "7", "1"), row("größer", "12", "123456")];
        for (width, head, line) in [
            (80, "NAME    ID   BYTES", "größer  12  123456"),
            (18, "NAME    ID   BYTES", "größer  12  123456"),
            (17, "NAME     BYTES", "größer  123456"),
            (13, "NAME  ", "größer"),
            (0, "NAME  ", "größer"),
        ] {
            let shape = Shape::of(&columns, &rows, width);
            assert_eq!(shape.head(&columns), head, "{width}");
            let text: String = shape.line(&columns, &rows[1]).into_iter().map(|(text, _)| text).collect();
            assert_eq!(text, line, "{width}");
        }
        let beneath = |width| Shape::of(&columns, &rows, width).beneath(&columns, &rows[1], width);
        assert_eq!(beneath(80), [""; 0]);
        assert_eq!(beneath(17), ["  id 12"]);
        assert_eq!(beneath(13), ["  id 12,", "  bytes", "  123456"]);
        assert_eq!(Shape::of(&columns, &rows, 8).beneath(&columns, &rows[0], 20), ["  id 7, bytes 1"]);
    }
}
