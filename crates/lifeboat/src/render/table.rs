//! Columns without lines, made to be read and to be cut apart by other programs.

/// A cell: what is shown, and how wide it looks (colour codes have no width).
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    width: usize,
}

impl Cell {
    /// `plain` decides the width, `shown` is printed.
    pub fn painted(plain: &str, shown: String) -> Self {
        Self { text: shown, width: plain.chars().count() }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        let text: String = text.as_ref().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { width: text.chars().count(), text }
    }
}

/// Rows under a header. Numbers are aligned by putting `>` before their header's name.
#[derive(Debug)]
pub struct Table {
    headers: Vec<Cell>,
    right: Vec<bool>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new<const N: usize>(headers: [&str; N]) -> Self {
        Self {
            headers: headers.iter().map(|h| Cell::from(h.trim_start_matches('>'))).collect(),
            right: headers.iter().map(|h| h.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.headers.len(), "a row has as many cells as the table has columns");
        self.rows.push(cells.into());
    }

    /// The table, each line starting with `indent`, without blanks at line ends.
    pub fn render(&self, indent: &str) -> String {
        let width = |column: usize| {
            self.rows.iter().chain([&self.headers]).map(|r| r[column].width).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.headers.len()).map(width).collect();
        let mut out = String::new();
        for row in [&self.headers].into_iter().chain(&self.rows) {
            let mut line = indent.to_string();
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[column] - cell.width);
                if column > 0 {
                    line.push_str("  ");
                }
                if self.right[column] {
                    line.push_str(&pad);
                    line.push_str(&cell.text);
                } else {
                    line.push_str(&cell.text);
                    line.push_str(&pad);
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests;
