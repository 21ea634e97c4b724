//! What is said of it: tables as GitHub shows them, and whether what should hold does.

use std::fmt;

/// Rows under a heading, as GitHub's Markdown.
#[derive(Clone, Debug, Default)]
pub struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Whether what should hold does.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What it is about.
    pub name: String,
    /// What came of it.
    pub value: f64,
    /// What it is held against.
    pub line: f64,
    /// Whether it may be no more than the line; else it may be no less.
    pub at_most: bool,
}

/// What came of an experiment.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// To be read.
    pub tables: Vec<Table>,
    /// What should hold.
    pub verdicts: Vec<Verdict>,
    /// To be looked at: a name without an ending, and an SVG.
    pub plots: Vec<(String, String)>,
}

// === impl Table ===

impl Table {
    /// No rows yet.
    pub fn new<S: Into<String>>(
        title: impl Into<String>,
        columns: impl IntoIterator<Item = S>,
    ) -> Self {
        Self {
            title: title.into(),
            columns: columns.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// One more row.
    ///
    /// # Panics
    ///
    /// If it has not as many cells as there are columns.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows.push(cells);
    }

    /// What stands above it.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.title
    }

    /// How wide a column is, in characters; no less than its rule.
    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| &row[column]);
        let cells = cells.chain([&self.columns[column]]);
        let widest = cells.map(|cell| escaped(cell).chars().count()).max();
        widest.unwrap_or(0).max(3)
    }

    /// Figures are read from the right.
    fn is_right(&self, column: usize) -> bool {
        column > 0
            && self.rows.iter().all(|row| {
                let first = row[column].trim_start_matches(['-', '−', '+', '<', '>', '≤', '≥']);
                first.starts_with(|c: char| c.is_ascii_digit()) || first.is_empty()
            })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = 0..self.columns.len();
        let columns: Vec<_> = columns.map(|n| (self.width(n), self.is_right(n))).collect();
        let line = |f: &mut fmt::Formatter<'_>, cells: &[String]| {
            for (cell, &(width, right)) in cells.iter().zip(&columns) {
                let cell = escaped(cell);
                if right {
                    write!(f, "| {cell:>width$} ")?;
                } else {
                    write!(f, "| {cell:<width$} ")?;
                }
            }
            writeln!(f, "|")
        };
        if !self.title.is_empty() {
            writeln!(f, "### {}\n", self.title)?;
        }
        line(f, &self.columns)?;
        for &(width, right) in &columns {
            let end = if right { ':' } else { '-' };
            write!(f, "| {}{end} ", "-".repeat(width - 1))?;
        }
        writeln!(f, "|")?;
        for row in &self.rows {
            line(f, row)?;
        }
        Ok(())
    }
}

/// A bar would end the cell, and a line the row.
fn escaped(cell: &str) -> String {
    cell.replace('|', "\\|").replace('\n', " ")
}

// === impl Verdict ===

impl Verdict {
    /// It may be no more than `line`.
    pub fn at_most(name: impl Into<String>, value: f64, line: f64) -> Self {
        Self {
            name: name.into(),
            value,
            line,
            at_most: true,
        }
    }

    /// It may be no less than `line`.
    pub fn at_least(name: impl Into<String>, value: f64, line: f64) -> Self {
        Self {
            at_most: false,
            ..Self::at_most(name, value, line)
        }
    }

    /// Whether it holds. What is no number does not.
    #[must_use]
    pub fn holds(&self) -> bool {
        if self.at_most {
            self.value <= self.line
        } else {
            self.value >= self.line
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = if self.holds() { "holds" } else { "FAILS" };
        let sign = if self.at_most { '≤' } else { '≥' };
        let (name, value, line) = (&self.name, figure(self.value), figure(self.line));
        write!(f, "{holds}: {name}: {value} {sign} {line}")
    }
}

// === impl Report ===

impl Report {
    /// Whether all of it holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.verdicts.iter().all(Verdict::holds)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.tables {
            writeln!(f, "{table}")?;
        }
        for verdict in &self.verdicts {
            writeln!(f, "* {verdict}")?;
        }
        Ok(())
    }
}

/// Three figures of a number, and all before the point.
#[must_use]
pub fn figure(value: f64) -> String {
    let size = value.abs();
    let figures = match size {
        _ if size == 0.0 || size >= 100.0 => 0,
        _ if size >= 10.0 => 1,
        _ if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.figures$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// A part, in percent.
#[must_use]
pub fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_figures_are_on_the_right() {
        let mut table = Table::new("Retries", ["retry", "seconds"]);
        table.row(["Never", "0.4"]);
        table.row(["Told", "-12"]);
        let text = "\
### Retries

| retry | seconds |
| ----- | ------: |
| Never |     0.4 |
| Told  |     -12 |
";
        assert_eq!(table.to_string(), text);
    }

    #[test]
    fn a_bar_in_a_cell_does_not_end_it() {
        let mut table = Table::new("", ["a|b"]);
        table.row(["c\nd"]);
        assert_eq!(table.to_string(), "| a\\|b |\n| ---- |\n| c d  |\n");
    }

    #[test]
    #[should_panic(expected = "a cell for each column")]
    fn a_row_has_a_cell_for_each_column() {
        Table::new("", ["a", "b"]).row(["c"]);
    }

    #[test]
    fn on_the_line_is_within_it() {
        assert!(Verdict::at_most("a", 3.0, 3.0).holds());
        assert!(!Verdict::at_most("a", 3.1, 3.0).holds());
        assert!(Verdict::at_least("a", 3.0, 3.0).holds());
        assert!(!Verdict::at_least("a", 2.9, 3.0).holds());
    }

    #[test]
    fn what_is_no_number_does_not_hold() {
        assert!(!Verdict::at_most("a", f64::NAN, 3.0).holds());
        assert!(!Verdict::at_least("a", f64::NAN, 3.0).holds());
    }

    #[test]
    fn a_verdict_says_the_figure_and_the_line() {
        let verdict = Verdict::at_most("recovery in s", 13.25, 3.0);
        assert_eq!(verdict.to_string(), "FAILS: recovery in s: 13.2 ≤ 3");
    }

    #[test]
    fn a_figure_has_three_digits() {
        let figures = [1234.5, 99.96, 9.5, 0.25, 0.0, -3.0, f64::INFINITY].map(figure);
        assert_eq!(figures, ["1234", "100", "9.5", "0.25", "0", "-3", "inf"]);
    }
}
