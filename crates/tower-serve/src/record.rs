//! The counts of a server, for the recorder of `metrics`.

use metrics::{Label, Unit, counter, describe_counter, describe_gauge, gauge};

use crate::Watch;

impl Watch {
    /// Tells the recorder of `metrics` what is there now, and how often what has happened.
    ///
    /// Call it when somebody looks: before an exporter renders, or every few seconds. Between two calls nothing is
    /// told, and nothing is spent. Without a recorder it does nothing. A gauge of a limit that is taken away while the server
    /// runs keeps its last value.
    ///
    /// The names begin with `server_`; `docs/operations.md` lists them. Two servers of one process would overwrite each other's:
    /// tell of one of them, or take [`look`](Watch::look) and tell it yourself.
    ///
    /// ```
    /// use tower_serve::Preset;
    ///
    /// let watch = Preset::direct().watch();
    /// // In the handler of `/metrics`:
    /// watch.record();
    /// ```
    pub fn record(&self) {
        describe();
        let look = self.look();
        for (name, value) in look.gauges() {
            gauge!(name).set(value);
        }
        for count in look.counts {
            let labels = count.labels.iter();
            let labels: Vec<_> = labels
                .map(|(key, value)| Label::from_static_parts(key, value))
                .collect();
            counter!(count.name, labels).absolute(count.value);
        }
    }
}

/// What each name means. An exporter that knows keeps the last.
fn describe() {
    describe_gauge!("server_connections_open", "Connections that are open");
    describe_gauge!("server_connections_max", "Connections that may be open");
    describe_gauge!(
        "server_connections_upgraded",
        "Connections that are no longer HTTP"
    );
    describe_gauge!(
        "server_connections_being_rejected",
        "Connections that are being turned away"
    );
    describe_gauge!(
        "server_acceptors_waiting",
        "Acceptors that wait for a place, while clients wait in the backlog"
    );
    describe_gauge!(
        "server_requests_in_flight",
        "Requests in flight, to the end of the response"
    );
    describe_gauge!(
        "server_requests_admitted",
        "Requests that hold one of the slots of the limit"
    );
    describe_gauge!("server_requests_limit", "Slots of the limit of requests");
    describe_gauge!("server_requests_waiting", "Requests that wait for a slot");
    describe_gauge!(
        "server_requests_estimated_wait_seconds",
        Unit::Seconds,
        "How long a request that comes now would wait"
    );
    describe_gauge!("server_streams_open", "Upgrades and endless responses");
    describe_gauge!(
        "server_drain_phase",
        "0 serving, 1 lame duck, 2 draining, 3 cutting, 4 finished"
    );
    describe_counter!(
        "server_connections_rejected_total",
        "Connections that were turned away, by reason"
    );
    describe_counter!(
        "server_connections_evicted_total",
        "Idle connections that were closed to make room"
    );
    describe_counter!(
        "server_connections_ended_total",
        "Connections and streams that a layer ended, by layer and reason"
    );
    describe_counter!(
        "server_requests_shed_total",
        "Requests that were refused for load, by reason and class"
    );
}
