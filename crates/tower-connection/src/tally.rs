use std::{
    fmt,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// A reason, as the label of a metric.
///
/// Each layer that ends or refuses something says why with an enum of its own, and all of them are this: so whoever shows
/// them needs to be written once.
///
/// # Examples
///
/// ```
/// use tower_connection::{Label, Tally};
///
/// fn show<L: Label>(name: &str, ends: &Tally<L>) -> String {
///     let line = |&label: &L| format!("{name}{{reason=\"{}\"}} {}\n", label.as_str(), ends.of(label));
///     L::ALL.iter().map(line).collect()
/// }
/// # #[derive(Clone, Copy)]
/// # enum Reason { Idle }
/// # impl Label for Reason {
/// #     const ALL: &'static [Self] = &[Self::Idle];
/// #     fn as_str(self) -> &'static str { "idle" }
/// # }
///
/// let ends = Tally::default();
/// ends.count(Reason::Idle);
/// assert_eq!(show("connections_ended_total", &ends), "connections_ended_total{reason=\"idle\"} 1\n");
/// ```
pub trait Label: Copy + Send + Sync + 'static {
    /// All of them, each with a name of its own.
    const ALL: &'static [Self];

    /// Its name, in lower case.
    fn as_str(self) -> &'static str;
}

/// How often a layer ended or refused something, by the reason.
///
/// A clone shows the same counts. They only grow, and each is exact; two that are read one after the other are of two
/// moments.
///
/// # Examples
///
/// ```
/// use tower_connection::{Label, Tally};
///
/// #[derive(Clone, Copy)]
/// enum Reason {
///     Idle,
///     Age,
/// }
///
/// impl Label for Reason {
///     const ALL: &'static [Self] = &[Self::Idle, Self::Age];
///
///     fn as_str(self) -> &'static str {
///         match self {
///             Self::Idle => "idle",
///             Self::Age => "age",
///         }
///     }
/// }
///
/// let ends = Tally::default();
/// ends.clone().count(Reason::Idle);
/// assert_eq!((ends.of(Reason::Idle), ends.of(Reason::Age)), (1, 0));
/// assert_eq!(ends.total(), 1);
/// ```
pub struct Tally<L> {
    counts: Arc<[AtomicU64]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label> Tally<L> {
    /// One more, for this reason. (For one that is not among [all](Label::ALL), nothing.)
    ///
    /// ```
    /// # use tower_connection::{Label, Tally};
    /// # fn refuse<Reason: Label>(refusals: &Tally<Reason>, full: Reason) {
    /// refusals.count(full);
    /// # }
    /// ```
    pub fn count(&self, label: L) {
        // Relaxed, as all here: numbers to look at.
        if let Some(count) = self.find(label) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many for this reason.
    #[must_use]
    pub fn of(&self, label: L) -> u64 {
        self.find(label)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// How many in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        let counts = self.counts.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// By its name: a label need not be an enum without fields, and there are few of them.
    fn find(&self, label: L) -> Option<&AtomicU64> {
        let name = label.as_str();
        let at = L::ALL.iter().position(|other| other.as_str() == name)?;
        self.counts.get(at)
    }
}

impl<L: Label> Default for Tally<L> {
    fn default() -> Self {
        Self {
            counts: L::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            label: PhantomData,
        }
    }
}

// A clone shows the same counts.
impl<L> Clone for Tally<L> {
    fn clone(&self) -> Self {
        Self {
            counts: self.counts.clone(),
            label: PhantomData,
        }
    }
}

impl<L: Label> fmt::Debug for Tally<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = L::ALL.iter().map(|&label| (label.as_str(), self.of(label)));
        f.debug_map().entries(counts).finish()
    }
}

#[cfg(all(test, not(tower_loom)))]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Reason {
        Full,
        Late,
        Unlisted,
    }

    impl Label for Reason {
        const ALL: &'static [Self] = &[Self::Full, Self::Late];

        fn as_str(self) -> &'static str {
            match self {
                Self::Full => "full",
                Self::Late => "late",
                Self::Unlisted => "unlisted",
            }
        }
    }

    #[test]
    fn each_label_has_a_count_of_its_own_and_clones_share_it() {
        // OBS-1
        let tally = Tally::default();
        let clone = tally.clone();
        tally.count(Reason::Late);
        clone.count(Reason::Late);
        clone.count(Reason::Full);
        assert_eq!((tally.of(Reason::Full), tally.of(Reason::Late)), (1, 2));
        assert_eq!(tally.total(), 3);
        assert_eq!(format!("{tally:?}"), r#"{"full": 1, "late": 2}"#);
    }

    #[test]
    fn a_label_that_is_not_among_all_is_nobodys() {
        let tally = Tally::default();
        tally.count(Reason::Unlisted);
        assert_eq!((tally.of(Reason::Unlisted), tally.total()), (0, 0));
    }
}
