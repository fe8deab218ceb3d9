//! The terminal as `drainctl top` draws on it: lines from above, windows, and what stands at the bottom.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use crate::control::paint::Tone;

/// The terminal, from its first line down.
pub(super) struct Page<'a> {
    pub area: Rect,
    pub buffer: &'a mut Buffer,
    pub y: u16,
    pub has_colours: bool,
}

impl Page<'_> {
    pub fn left(&self) -> usize {
        usize::from(self.area.bottom().saturating_sub(self.y))
    }

    pub fn blank(&mut self) {
        self.y = self.y.saturating_add(1);
    }

    /// What does not fit is cut off.
    pub fn line(&mut self, line: Vec<Span<'static>>) {
        if self.left() > 0 {
            self.buffer.set_line(self.area.left(), self.y, &Line::from(line), self.area.width);
            self.blank();
        }
    }

    pub fn head(&mut self, text: String) {
        let head = self.toned(text, Some(Tone::Strong));
        self.line(vec![head]);
    }

    pub fn marked(&mut self, line: Vec<Span<'static>>) {
        let row = Rect { y: self.y, height: 1, ..self.area }.intersection(self.area);
        self.line(line);
        self.buffer.set_style(row, Modifier::REVERSED);
    }

    pub fn cells(&self, cells: Vec<(String, Option<Tone>)>) -> Vec<Span<'static>> {
        cells.into_iter().map(|(text, tone)| self.toned(text, tone)).collect()
    }

    pub fn toned(&self, text: String, tone: Option<Tone>) -> Span<'static> {
        let colour = match tone {
            None => return Span::raw(text),
            Some(Tone::Strong) => return Span::styled(text, Modifier::BOLD),
            Some(Tone::Good) => Color::Green,
            Some(Tone::Warning) => Color::Yellow,
            Some(Tone::Bad) => Color::Red,
        };
        // Without colours what is bad is still seen.
        let style = match (self.has_colours, tone) {
            (true, _) => Style::new().fg(colour),
            (false, Some(Tone::Bad)) => Modifier::BOLD.into(),
            (false, _) => Style::new(),
        };
        Span::styled(text, style)
    }

    /// How much text goes into a window: width and lines.
    pub fn room(&self) -> (usize, usize) {
        (usize::from(self.area.width.saturating_sub(4)), usize::from(self.area.height.saturating_sub(2)))
    }

    /// A frame in the middle with these lines. Where there is no room for all, the last one is among those that
    /// are shown.
    pub fn window(&mut self, title: &str, mut lines: Vec<String>) {
        let (room_wide, room_high) = self.room();
        if room_wide == 0 || room_high == 0 {
            return;
        }
        if let Some(last) = lines.len().checked_sub(1).filter(|_| lines.len() > room_high) {
            lines.swap(room_high - 1, last);
            lines.truncate(room_high);
        }
        let longest = lines.iter().map(|line| line.chars().count()).max().unwrap_or_default();
        let fit = |n: usize, most: u16| u16::try_from(n).unwrap_or(most).min(most);
        let (width, height) = (fit(longest + 4, self.area.width), fit(lines.len() + 2, self.area.height));
        let left = self.area.left() + (self.area.width - width) / 2;
        let above = self.area.top() + (self.area.height - height) / 2;
        let frame = Rect { x: left, y: above, width, height };
        for at in frame.positions() {
            self.buffer[at].reset();
        }
        let inner = usize::from(width) - 2;
        let rule = |left: char, right: char, title: &str| {
            let title: String = title.chars().take(inner).collect();
            format!("{left}{title:─<inner$}{right}")
        };
        let mut row =
            |y: u16, text: String| self.buffer.set_stringn(left, y, text, usize::from(width), Style::new());
        row(above, rule('┌', '┐', title));
        for (y, line) in (above + 1..above + height - 1).zip(lines) {
            let room = inner - 2;
            let line: String = line.chars().take(room).collect();
            row(y, format!("│ {line:room$} │"));
        }
        row(above + height - 1, rule('└', '┘', ""));
    }

    /// What stands from line `y` on is not of now.
    pub fn dim_from(&mut self, y: u16) {
        let height = self.area.bottom().saturating_sub(y);
        let old = Rect { y, height, ..self.area }.intersection(self.area);
        self.buffer.set_style(old, Modifier::DIM);
    }

    /// These lines are the last ones of the terminal, whatever stood there.
    pub fn end_with(&mut self, lines: Vec<Vec<Span<'static>>>) {
        let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).min(self.area.height);
        self.y = self.area.bottom() - height;
        for at in (Rect { y: self.y, height, ..self.area }).positions() {
            self.buffer[at].reset();
        }
        lines.into_iter().for_each(|line| self.line(line));
    }
}
