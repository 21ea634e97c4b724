//! Pictures: lines, and maps of heat, as small SVGs that can be read on a light page and on a dark one.

use std::fmt::Write as _;

use crate::table::figure;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;

/// No line has more points: nobody could tell them apart.
const POINTS: usize = 480;

/// Colours that are told apart by most people (Okabe and Ito).
const COLOURS: [&str; 8] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c564b",
];

/// Several series over the same axis.
#[derive(Clone, Debug)]
pub struct LineChart {
    title: String,
    x: Axis,
    y: Axis,
    series: Vec<Series>,
    marks: Vec<Mark>,
}

/// A value for each pair of a row and a column.
#[derive(Clone, Debug)]
pub struct HeatMap {
    title: String,
    column: String,
    columns: Vec<String>,
    row: String,
    rows: Vec<String>,
    values: Vec<Vec<f64>>,
    most: Option<f64>,
}

#[derive(Clone, Debug)]
struct Axis {
    name: String,
    log: bool,
    /// It begins and ends where the points do.
    snug: bool,
    to: Option<f64>,
}

#[derive(Clone, Debug)]
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

#[derive(Clone, Debug)]
struct Mark {
    name: String,
    at: f64,
    horizontal: bool,
}

// === impl LineChart ===

impl LineChart {
    /// Nothing to see yet. The names of the axes have their units.
    pub fn new(title: impl Into<String>, x: impl Into<String>, y: impl Into<String>) -> Self {
        let axis = |name, snug| Axis {
            name,
            log: false,
            snug,
            to: None,
        };
        Self {
            title: title.into(),
            x: axis(x.into(), true),
            y: axis(y.into(), false),
            series: Vec::new(),
            marks: Vec::new(),
        }
    }

    /// Ten times as much is as far up, wherever. What is zero or less is not shown.
    #[must_use]
    pub fn log(mut self) -> Self {
        self.y.log = true;
        self
    }

    /// Up to so much, though there is more or less.
    #[must_use]
    pub fn up_to(mut self, most: f64) -> Self {
        self.y.to = Some(most);
        self
    }

    /// One more line.
    #[must_use]
    pub fn line(
        mut self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        let points = points.into_iter();
        let points = points.filter(|(x, y)| x.is_finite() && y.is_finite());
        self.series.push(Series {
            name: name.into(),
            points: points.collect(),
        });
        self
    }

    /// A dashed line across, at a height.
    #[must_use]
    pub fn across(self, name: impl Into<String>, y: f64) -> Self {
        self.mark(name.into(), y, true)
    }

    /// A dashed line from top to bottom.
    #[must_use]
    pub fn down(self, name: impl Into<String>, x: f64) -> Self {
        self.mark(name.into(), x, false)
    }

    fn mark(mut self, name: String, at: f64, horizontal: bool) -> Self {
        self.marks.push(Mark {
            name,
            at,
            horizontal,
        });
        self
    }

    /// As a file.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let legend = if self.series.len() > 1 { 22.0 } else { 0.0 };
        let frame = Frame {
            left: 64.0,
            top: 42.0 + legend,
            right: WIDTH - 20.0,
            bottom: HEIGHT - 48.0,
        };
        let all = || self.series.iter().flat_map(|series| &series.points);
        let marks = |horizontal| {
            let marks = self.marks.iter();
            let marks = marks.filter(move |mark| mark.horizontal == horizontal);
            marks.map(|mark| mark.at)
        };
        let x = Scale::of(&self.x, all().map(|point| point.0).chain(marks(false)));
        let y = Scale::of(&self.y, all().map(|point| point.1).chain(marks(true)));
        let mut svg = Svg::new(&self.title, WIDTH, HEIGHT);
        svg.axes(&frame, (&x, &self.x.name), (&y, &self.y.name));
        for mark in &self.marks {
            svg.mark(&frame, mark, if mark.horizontal { &y } else { &x });
        }
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            svg.line(&frame, &series.points, (&x, &y), colour);
        }
        if legend > 0.0 {
            let names = self.series.iter().map(|series| series.name.as_str());
            svg.legend(frame.left, 44.0, names);
        }
        svg.end()
    }
}

// === impl HeatMap ===

impl HeatMap {
    /// All cells are empty yet. The names of columns and rows have their units.
    pub fn new<C: Into<String>, R: Into<String>>(
        title: impl Into<String>,
        column: impl Into<String>,
        columns: impl IntoIterator<Item = C>,
        row: impl Into<String>,
        rows: impl IntoIterator<Item = R>,
    ) -> Self {
        Self {
            title: title.into(),
            column: column.into(),
            columns: columns.into_iter().map(Into::into).collect(),
            row: row.into(),
            rows: rows.into_iter().map(Into::into).collect(),
            values: Vec::new(),
            most: None,
        }
    }

    /// All that is more is of the same colour. What is infinite is always of one of its own.
    #[must_use]
    pub fn up_to(mut self, most: f64) -> Self {
        self.most = Some(most);
        self
    }

    /// The values of the next row.
    ///
    /// # Panics
    ///
    /// If they are not as many as the columns.
    #[must_use]
    pub fn row(mut self, values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        assert_eq!(values.len(), self.columns.len(), "a value for each column");
        self.values.push(values);
        self
    }

    /// As a file.
    #[must_use]
    pub fn to_svg(&self) -> String {
        const ROW: f64 = 24.0;
        const LEFT: f64 = 150.0;
        const TOP: f64 = 66.0;
        let bottom = TOP + ROW * real(self.rows.len());
        let each = (WIDTH - LEFT - 20.0) / real(self.columns.len().max(1));
        let all = self.values.iter().flatten().copied();
        let most = all.filter(|value| value.is_finite()).fold(0.0, f64::max);
        let most = self.most.unwrap_or(most).max(f64::MIN_POSITIVE);
        let mut svg = Svg::new(&self.title, WIDTH, bottom + 44.0);
        svg.text(16.0, TOP - 10.0, "start", "m", &self.row);
        for (n, row) in self.rows.iter().enumerate() {
            let y = TOP + ROW * (real(n) + 0.5) + 4.0;
            svg.text(LEFT - 8.0, y, "end", "m", row);
        }
        for (n, column) in self.columns.iter().enumerate() {
            let x = LEFT + each * (real(n) + 0.5);
            svg.text(x, bottom + 17.0, "middle", "m", column);
        }
        let middle = f64::midpoint(LEFT, WIDTH - 20.0);
        svg.text(middle, bottom + 34.0, "middle", "m", &self.column);
        for (row, values) in self.values.iter().enumerate() {
            for (column, &value) in values.iter().enumerate() {
                let (x, y) = (LEFT + each * real(column), TOP + ROW * real(row));
                svg.cell((x, y), (each - 1.0, ROW - 1.0), value, most);
            }
        }
        svg.end()
    }
}

// === Scales ===

/// Where on the page the points are.
struct Frame {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

struct Scale {
    from: f64,
    to: f64,
    log: bool,
    ticks: Vec<f64>,
}

impl Scale {
    fn of(axis: &Axis, values: impl Iterator<Item = f64>) -> Self {
        let shown = values.filter(|value| !axis.log || *value > 0.0);
        let (least, most) = shown.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), value| {
            (a.min(value), b.max(value))
        });
        let (least, most) = if least <= most {
            (least, most)
        } else {
            (1.0, 10.0)
        };
        let most = axis.to.unwrap_or(most);
        if axis.log {
            let (from, to) = (least.log10().floor(), most.log10().ceil());
            let to = to.max(from + 1.0);
            let decades = (0..).map(|n| from + f64::from(n));
            let ticks = decades.take_while(|decade| *decade <= to);
            Self {
                ticks: ticks.map(|decade| 10f64.powf(decade)).collect(),
                from: 10f64.powf(from),
                to: 10f64.powf(to),
                log: true,
            }
        } else {
            // What is all above zero is seen from zero, unless that is far away.
            let least = if !axis.snug && least > 0.0 && least < 0.5 * most {
                0.0
            } else {
                least
            };
            let step = step((most - least).max(1e-9));
            let first = (least / step).floor() * step;
            let (from, to) = if axis.snug && most > least {
                (least, most)
            } else if axis.to.is_some() {
                (first, most)
            } else {
                (first, ((most / step).ceil() * step).max(first + step))
            };
            let ticks = (0..).map(|n| first + f64::from(n) * step);
            Self {
                ticks: ticks
                    .take_while(|tick| *tick <= to + step / 1e6)
                    .filter(|tick| *tick >= from - step / 1e6)
                    .collect(),
                from,
                to,
                log: false,
            }
        }
    }

    /// From zero to one; what is outside is at the edge.
    fn place(&self, value: f64) -> f64 {
        let part = if self.log {
            (value / self.from).log10() / (self.to / self.from).log10()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        part.clamp(0.0, 1.0)
    }
}

/// One, two or five, and zeros, so that there are four to nine of them.
fn step(span: f64) -> f64 {
    let ten = 10f64.powf((span / 4.0).log10().floor());
    let times = [5.0, 2.0, 1.0].into_iter();
    let fits = times
        .map(|times| times * ten)
        .find(|step| span / step >= 4.0);
    fits.unwrap_or(ten)
}

// === Svg ===

struct Svg(String);

impl Svg {
    /// With a ground of its own, so that the text can be read where the page is dark as well.
    fn new(title: &str, width: f64, height: f64) -> Self {
        let (w, h) = (short(width), short(height));
        let mut svg = Self(String::new());
        svg.put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" role=\"img\" \
             font-family=\"system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif\" font-size=\"12\">\n\
             <title>{}</title>\n<style>\
             .g{{fill:#fff}}.t{{fill:#1f2328}}.m{{fill:#59636e}}.a{{stroke:#d1d9e0;fill:none}}.d{{stroke:#818b98;stroke-dasharray:4 3}}\
             .l{{fill:none;stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}}\
             @media(prefers-color-scheme:dark){{.g{{fill:#151b23}}.t{{fill:#f0f6fc}}.m{{fill:#9198a1}}.a{{stroke:#3d444d}}\
             .l{{filter:brightness(1.35)}}}}\
             </style>\n<rect class=\"g\" width=\"{w}\" height=\"{h}\" rx=\"6\"/>\n",
            escaped(title)
        ));
        svg.put(format_args!(
            "<text class=\"t\" x=\"16\" y=\"25\" font-size=\"15\" font-weight=\"600\">{}</text>\n",
            escaped(title)
        ));
        svg
    }

    fn put(&mut self, what: std::fmt::Arguments<'_>) {
        self.0.write_fmt(what).expect("a string takes all");
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, class: &str, text: &str) {
        let (x, y, text) = (short(x), short(y), escaped(text));
        let anchor = if anchor == "start" {
            String::new()
        } else {
            format!(" text-anchor=\"{anchor}\"")
        };
        self.put(format_args!(
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\"{anchor}>{text}</text>\n"
        ));
    }

    fn axes(&mut self, frame: &Frame, (x, x_name): (&Scale, &str), (y, y_name): (&Scale, &str)) {
        let mut path = String::new();
        for &tick in &y.ticks {
            let at = frame.y(y.place(tick));
            let (left, right) = (short(frame.left), short(frame.right));
            path.extend([format!("M{left} {}H{right}", short(at))]);
            self.text(frame.left - 6.0, at + 4.0, "end", "m", &label(tick));
        }
        for &tick in &x.ticks {
            let at = frame.x(x.place(tick));
            path.extend([format!("M{} {}v4", short(at), short(frame.bottom))]);
            self.text(at, frame.bottom + 18.0, "middle", "m", &label(tick));
        }
        self.put(format_args!("<path class=\"a\" d=\"{path}\"/>\n"));
        let middle = f64::midpoint(frame.left, frame.right);
        self.text(middle, frame.bottom + 37.0, "middle", "m", x_name);
        let (at, name) = (
            short(f64::midpoint(frame.top, frame.bottom)),
            escaped(y_name),
        );
        self.put(format_args!(
            "<text class=\"m\" transform=\"translate(16 {at})rotate(-90)\" text-anchor=\"middle\">{name}</text>\n"
        ));
    }

    fn mark(&mut self, frame: &Frame, mark: &Mark, scale: &Scale) {
        let part = scale.place(mark.at);
        if mark.horizontal {
            let at = frame.y(part);
            let (y, left, right) = (short(at), short(frame.left), short(frame.right));
            self.put(format_args!(
                "<path class=\"d\" d=\"M{left} {y}H{right}\"/>\n"
            ));
            self.text(frame.right - 4.0, at - 4.0, "end", "m", &mark.name);
        } else {
            let at = frame.x(part);
            let (x, top, bottom) = (short(at), short(frame.top), short(frame.bottom));
            self.put(format_args!(
                "<path class=\"d\" d=\"M{x} {top}V{bottom}\"/>\n"
            ));
            self.text(at + 4.0, frame.top + 11.0, "start", "m", &mark.name);
        }
    }

    fn line(
        &mut self,
        frame: &Frame,
        points: &[(f64, f64)],
        (x, y): (&Scale, &Scale),
        colour: &str,
    ) {
        let mut path = String::new();
        let mut last = String::new();
        for (at, value) in thinned(points) {
            if y.log && value <= 0.0 {
                last.clear(); // what is not shown is a gap, not a line from one side of it to the other
                continue;
            }
            let place = format!(
                "{} {}",
                short(frame.x(x.place(at))),
                short(frame.y(y.place(value)))
            );
            if last.is_empty() {
                path.extend(["M", &place, "h.1"]); // somewhat of a point that is alone
            } else if place != last {
                path.extend(["L", &place]);
            }
            last = place;
        }
        if !path.is_empty() {
            self.put(format_args!(
                "<path class=\"l\" stroke=\"{colour}\" d=\"{path}\"/>\n"
            ));
        }
    }

    fn legend<'a>(&mut self, left: f64, y: f64, names: impl Iterator<Item = &'a str>) {
        let mut x = left;
        for (name, colour) in names.zip(COLOURS.iter().cycle()) {
            let (from, at) = (short(x), short(y));
            self.put(format_args!(
                "<path class=\"l\" stroke=\"{colour}\" stroke-width=\"3\" d=\"M{from} {at}h16\"/>\n"
            ));
            self.text(x + 21.0, y + 4.0, "start", "t", name);
            x += 40.0 + 6.6 * real(name.chars().count());
        }
    }

    /// The more, the darker red; infinity is black, and what is no number is not there.
    fn cell(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), value: f64, most: f64) {
        if value.is_nan() {
            return;
        }
        let (fill, ink, text) = if value.is_infinite() {
            ("#24292f".to_owned(), "#fff", "never".to_owned())
        } else {
            let (fill, dark) = heat((value / most).clamp(0.0, 1.0));
            (fill, if dark { "#fff" } else { "#1f2328" }, figure(value))
        };
        let (left, top, w, h) = (short(x), short(y), short(width), short(height));
        self.put(format_args!(
            "<rect x=\"{left}\" y=\"{top}\" width=\"{w}\" height=\"{h}\" fill=\"{fill}\"/>"
        ));
        let (x, y) = (short(x + width / 2.0), short(y + height / 2.0 + 4.0));
        self.put(format_args!(
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" font-size=\"11\" fill=\"{ink}\">{text}</text>\n"
        ));
    }

    fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

// === impl Frame ===

impl Frame {
    fn x(&self, part: f64) -> f64 {
        self.left + part * (self.right - self.left)
    }

    fn y(&self, part: f64) -> f64 {
        self.bottom - part * (self.bottom - self.top)
    }
}

/// The same line of fewer points: of each stretch the lowest and the highest, so that no spike is lost.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(POINTS / 2);
    let ends = points.chunks(stretch).flat_map(|points| {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let low = points.iter().min_by(by_value).expect("no chunk is empty");
        let high = points.iter().max_by(by_value).expect("no chunk is empty");
        if low.0 <= high.0 {
            [*low, *high]
        } else {
            [*high, *low]
        }
    });
    ends.collect()
}

/// From green by yellow to red; and whether that is dark.
fn heat(part: f64) -> (String, bool) {
    const STOPS: [(f64, f64, f64); 4] = [
        (214.0, 238.0, 216.0),
        (255.0, 236.0, 153.0),
        (247.0, 150.0, 70.0),
        (176.0, 24.0, 32.0),
    ];
    let place = part * 3.0;
    let mut from = 0;
    while from < 2 && place > real(from + 1) {
        from += 1;
    }
    let (a, b, by) = (STOPS[from], STOPS[from + 1], place - real(from));
    let mix = |a: f64, b: f64| (a + (b - a) * by).round();
    let (red, green, blue) = (mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2));
    (format!("rgb({red},{green},{blue})"), part > 0.8)
}

/// What is written at a tick: thousands are k, as there is little room.
fn label(tick: f64) -> String {
    let size = tick.abs();
    if size >= 1e6 {
        format!("{}M", plain(tick / 1e6))
    } else if size >= 1e4 {
        format!("{}k", plain(tick / 1e3))
    } else {
        plain(tick)
    }
}

fn plain(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.to_owned()
}

/// A tenth of a pixel is enough.
fn short(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

#[expect(clippy::cast_precision_loss, reason = "few")]
fn real(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> LineChart {
        LineChart::new("Goodput", "time in s", "answers in a second")
    }

    fn paths(svg: &str) -> Vec<&str> {
        let lines = svg.lines().filter(|line| line.contains("class=\"l\""));
        lines.collect()
    }

    #[test]
    fn the_same_points_are_the_same_bytes() {
        let draw = || {
            let wave = |n: i32| (f64::from(n), (f64::from(n) / 9.0).sin());
            chart().line("a", (0..5_000).map(wave)).to_svg()
        };
        assert_eq!(draw(), draw());
    }

    #[test]
    fn a_line_of_a_hundred_thousand_points_is_a_small_file() {
        let points = (0..100_000).map(|n| (f64::from(n), f64::from(n * 7919 % 1_000)));
        let svg = chart().line("a", points).to_svg();
        assert!(svg.len() < 12_000, "{}", svg.len());
    }

    #[test]
    fn no_spike_is_lost_by_thinning() {
        let spike = |n: i32| (f64::from(n), if n == 54_321 { 9.0 } else { 1.0 });
        let points: Vec<_> = (0..100_000).map(spike).collect();
        assert!(thinned(&points).contains(&(54_321.0, 9.0)));
        assert!(thinned(&points).len() <= POINTS);
    }

    #[test]
    fn a_few_points_are_all_there() {
        let points = [(0.0, 1.0), (1.0, 2.0), (2.0, 0.0)];
        assert_eq!(thinned(&points), points);
    }

    #[test]
    fn one_line_needs_no_legend() {
        let one = chart().line("only", [(0.0, 1.0), (1.0, 2.0)]);
        assert!(!one.to_svg().contains("only"));
        assert_eq!(paths(&one.to_svg()).len(), 1);
        let two = one.line("other", [(0.0, 2.0), (1.0, 1.0)]).to_svg();
        assert!(two.contains(">only<") && two.contains(">other<"));
    }

    #[test]
    fn text_stays_text_and_names_cannot_be_tags() {
        let svg = LineChart::new("a < b & c", "x", "y").to_svg();
        assert!(svg.contains("<title>a &lt; b &amp; c</title>"));
    }

    #[test]
    fn marks_are_inside_though_no_point_is_near() {
        let chart = chart().line("a", [(0.0, 1.0), (10.0, 2.0)]);
        let svg = chart.across("most", 100.0).down("end", 20.0).to_svg();
        assert!(svg.contains(">most<") && svg.contains(">end<"));
        assert!(svg.contains(">100<") && svg.contains(">20<"), "{svg}");
    }

    #[test]
    fn what_is_no_number_is_not_drawn() {
        let points = [(0.0, f64::NAN), (1.0, f64::INFINITY)];
        let svg = chart().line("a", points).to_svg();
        assert!(paths(&svg).is_empty());
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn what_cannot_be_shown_on_a_logarithmic_axis_is_a_gap() {
        let points = [(0.0, 1.0), (1.0, 2.0), (2.0, 0.0), (3.0, 4.0)];
        let svg = chart().line("a", points).log().to_svg();
        assert_eq!(paths(&svg)[0].matches('M').count(), 2);
        let svg = chart().line("a", points).to_svg();
        assert_eq!(paths(&svg)[0].matches('M').count(), 1);
    }

    #[test]
    fn lines_begin_at_the_left_and_end_at_the_right() {
        let chart = chart().line("a", [(21.0, 1.0), (49.0, 2.0)]);
        let svg = chart.to_svg();
        assert!(
            svg.contains(">30<") && !svg.contains(">20<") && !svg.contains(">50<"),
            "{svg}"
        );
    }

    #[test]
    fn on_a_logarithmic_axis_ten_times_as_much_is_as_far_up() {
        let axis = Axis {
            name: String::new(),
            log: true,
            snug: false,
            to: None,
        };
        let scale = Scale::of(&axis, [0.0, 2.0, 500.0].into_iter());
        assert!((scale.from - 1.0).abs() < 1e-9 && (scale.to - 1_000.0).abs() < 1e-9);
        assert!((scale.place(10.0) - 1.0 / 3.0).abs() < 1e-9);
        assert!((scale.place(100.0) - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(scale.ticks.len(), 4);
    }

    #[test]
    fn ticks_are_round_and_neither_few_nor_many() {
        for span in [0.013, 0.7, 1.0, 3.9, 60.0, 999.0, 24_000.0] {
            let times = span / step(span);
            assert!((4.0..10.0).contains(&times), "{span}: {times}");
        }
        assert_eq!(label(24_000.0), "24k");
        assert_eq!(label(0.25), "0.25");
        assert_eq!(label(-0.0), "0");
    }

    #[test]
    fn what_never_comes_is_said_and_is_no_heat() {
        let map = HeatMap::new("map", "load", ["0.5", "0.9"], "retry", ["Fast"]);
        let svg = map.row([f64::INFINITY, 4.0]).to_svg();
        assert!(svg.contains(">never<") && svg.contains(">4<"));
        assert!(!svg.contains("inf"), "{svg}");
    }

    #[test]
    #[should_panic(expected = "a value for each column")]
    fn a_row_of_heat_has_a_value_for_each_column() {
        let map = HeatMap::new("map", "load", ["0.5", "0.9"], "retry", ["Fast"]);
        let _ = map.row([1.0]);
    }

    #[test]
    fn heat_goes_from_green_to_red() {
        assert_eq!(heat(0.0), ("rgb(214,238,216)".to_owned(), false));
        assert_eq!(heat(1.0), ("rgb(176,24,32)".to_owned(), true));
    }
}
