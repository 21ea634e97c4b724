//! The scenarios, on every stack.

#[path = "conformance/connection.rs"]
mod connection;
#[path = "conformance/drain.rs"]
mod drain;
#[path = "conformance/keep_alive.rs"]
mod keep_alive;
#[path = "conformance/limit.rs"]
mod limit;
#[path = "conformance/overload.rs"]
mod overload;
#[path = "conformance/raw.rs"]
mod raw;
#[path = "conformance/read_timeout.rs"]
mod read_timeout;
#[path = "conformance/write_timeout.rs"]
mod write_timeout;

/// Makes one test of a scenario for each stack.
macro_rules! on_every_stack {
    ($($module:ident::$scenario:ident)*) => {
        $(mod $scenario {
            use super::$module::$scenario as scenario;

            on_every_stack! { @stacks
                axum_http1 AxumHttp1
                axum_http2 AxumHttp2
                axum_http1_tls AxumHttp1Tls
                axum_http2_tls AxumHttp2Tls
                hyper_http1 HyperHttp1
                hyper_http2 HyperHttp2
                hyper_auto_http1 HyperAutoHttp1
                hyper_auto_http2 HyperAutoHttp2
                hyper_auto_http1_tls HyperAutoHttp1Tls
                hyper_auto_http2_tls HyperAutoHttp2Tls
                tonic_http1 TonicHttp1
                tonic_http2 TonicHttp2
            }
        })*
    };
    (@stacks $($test:ident $stack:ident)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $test() {
                scenario(conformance::Stack::$stack).await;
            }
        )*
    };
}

on_every_stack! {
    connection::a_request_is_answered
    connection::an_upload_comes_back_whole
    connection::a_known_length_is_told
    connection::the_handle_counts_requests
    connection::close_ends_the_connection_after_the_answer
    connection::close_is_announced_and_lets_open_streams_finish
    connection::close_loses_nothing_of_a_large_response
    connection::close_amid_a_response_ends_the_connection_after_it
    connection::abort_ends_the_connection_under_its_handler
    connection::abort_after_close_ends_a_connection_that_nobody_reads
    connection::a_client_that_leaves_takes_its_handler_along
    connection::a_client_that_leaves_takes_its_body_along
    connection::a_panic_ends_its_request_and_no_other
    connection::a_slow_handshake_keeps_nobody_waiting
    connection::a_shutdown_finishes_what_is_in_flight
    connection::a_shutdown_does_not_wait_for_idle_clients
    connection::a_shut_gate_pauses_accepting_and_nothing_else
    limit::never_more_than_the_limit_are_open
    limit::waiting_ends_when_a_connection_ends
    limit::a_waiting_server_shuts_down
    limit::a_rejected_client_reads_a_whole_503
    limit::a_rejected_upload_still_reads_the_503
    limit::a_rejected_connection_ends
    limit::a_rejected_grpc_call_reads_unavailable
    limit::a_silent_rejected_client_is_closed_after_five_seconds
    limit::rejections_are_bounded_in_number
    limit::a_rejected_client_that_stays_is_waited_for_while_it_may_send
    limit::a_rejected_client_is_read_no_further_than_its_bytes
    limit::who_had_time_enough_makes_way_in_the_reserve
    limit::a_rejection_leaves_the_others_alone
    limit::a_silent_client_holds_a_permit_until_it_leaves
    limit::a_streaming_body_holds_its_permit
    limit::a_web_socket_holds_its_permit
    limit::a_panic_gives_the_permit_back
    limit::the_limit_can_be_changed
    limit::zero_is_no_limit
    limit::the_longest_silent_client_makes_room
    limit::the_longest_idle_client_makes_room_and_is_told
    limit::half_a_request_makes_room
    limit::who_is_at_work_never_makes_room
    limit::a_streaming_body_never_makes_room
    limit::a_web_socket_never_makes_room
    limit::a_response_that_is_not_taken_never_makes_room
    limit::a_connection_that_cannot_close_makes_room
    limit::a_request_that_crosses_with_the_end_reads_the_503
    limit::who_was_at_work_a_moment_ago_makes_room_a_moment_later
    limit::who_stays_at_work_is_waited_for_no_longer_than_that
    limit::a_crowd_finds_room_one_by_one
    limit::without_a_rejection_a_newcomer_waits_until_somebody_is_idle
    limit::who_waits_alone_in_the_reserve_finds_who_becomes_idle
    limit::closing_is_an_end_without_a_word
    limit::accepting_begins_again_at_the_low_watermark
    limit::a_reconnecting_client_is_not_rejected_without_a_pause
    limit::a_client_has_its_own_limit
    limit::a_client_makes_room_for_itself
    limit::upgraded_connections_have_their_own_limit
    limit::every_ugly_end_gives_its_permit_back
    keep_alive::an_idle_connection_is_closed_at_its_timeout
    keep_alive::however_it_lived_it_ends_when_it_is_idle
    keep_alive::without_a_timeout_an_idle_connection_stays
    keep_alive::a_slow_handler_is_not_idle
    keep_alive::a_silent_stream_is_not_idle
    keep_alive::a_response_that_is_not_taken_is_not_idle
    keep_alive::a_web_socket_is_not_idle
    keep_alive::a_long_upload_is_not_idle
    keep_alive::half_a_head_is_not_idle
    keep_alive::half_a_head_after_a_body_that_nobody_read_is_not_idle
    keep_alive::blank_lines_are_not_activity
    keep_alive::pipelined_requests_are_all_answered
    keep_alive::pings_are_not_activity
    keep_alive::who_still_reads_is_not_idle
    keep_alive::an_http2_client_that_asks_nothing_is_idle
    keep_alive::a_silent_client_is_left_to_others
    keep_alive::http1_clients_are_told_how_long
    keep_alive::who_was_not_read_to_the_end_is_told_nothing
    keep_alive::who_was_read_to_the_end_is_told
    keep_alive::http10_clients_of_a_stream_are_told_of_its_end
    keep_alive::http10_clients_keep_what_they_ask_to_keep
    keep_alive::http10_clients_are_told_one_thing
    keep_alive::a_client_that_closes_is_told_nothing
    keep_alive::the_last_request_is_announced
    keep_alive::an_old_connection_is_closed_with_its_next_answer
    keep_alive::an_old_idle_connection_is_closed_after_its_grace
    keep_alive::an_old_connection_waits_for_a_head_that_has_begun
    keep_alive::an_upgrade_is_told_nothing
    keep_alive::idleness_of_http2_begins_with_its_opening
    keep_alive::who_must_not_be_kept_is_closed_after_one_answer
    keep_alive::each_end_is_counted_once
    read_timeout::a_silent_client_is_closed_without_a_word
    read_timeout::a_client_that_is_silent_after_its_handshake_is_closed
    read_timeout::half_a_handshake_is_closed
    read_timeout::a_head_is_not_given_time_by_its_bytes
    read_timeout::a_head_that_comes_in_time_is_answered
    read_timeout::a_head_may_grow_up_to_its_maximum
    read_timeout::one_byte_is_not_enough
    read_timeout::an_opening_of_http2_must_come_in_time
    read_timeout::half_a_head_of_http2_ends_the_connection
    read_timeout::half_of_the_trailers_ends_the_connection
    read_timeout::each_head_of_http2_has_its_own_time
    read_timeout::a_body_that_stops_is_answered_408
    read_timeout::a_body_must_keep_its_rate
    read_timeout::a_stream_whose_body_stops_ends_and_no_other
    read_timeout::a_handler_that_does_not_read_is_not_the_clients_fault
    read_timeout::who_is_exempt_may_be_silent
    read_timeout::the_client_of_a_grpc_call_that_is_answered_may_be_silent
    read_timeout::the_rest_of_a_body_is_no_head
    read_timeout::the_rest_of_a_body_that_is_read_after_the_answer_is_no_head
    read_timeout::half_a_head_after_a_body_that_nobody_read_is_timed
    read_timeout::a_close_does_not_cut_a_body_that_outlives_its_response
    read_timeout::a_body_that_outlives_its_response_is_under_way
    read_timeout::a_web_socket_may_be_silent
    read_timeout::zero_bounds_nothing
    read_timeout::what_does_not_arrive_is_counted_once
    write_timeout::who_takes_nothing_is_given_up
    write_timeout::who_takes_too_little_is_given_up_after_its_grace
    write_timeout::who_takes_a_little_steadily_is_served
    write_timeout::a_slow_handler_is_not_the_clients_fault
    write_timeout::nobody_owes_longer_than_the_ceiling
    write_timeout::a_stream_that_is_not_taken_ends_and_no_other
    write_timeout::when_no_stream_is_taken_the_connection_ends
    write_timeout::who_waits_for_another_stream_is_not_blamed
    write_timeout::who_waits_while_another_takes_all_is_not_blamed
    write_timeout::one_byte_at_a_time_is_not_taking
    write_timeout::a_stream_ends_in_the_midst_of_an_upload
    write_timeout::half_a_frame_does_not_keep_a_stream
    write_timeout::a_web_socket_must_be_read
    write_timeout::a_shutdown_waits_no_longer_than_that
    write_timeout::zero_waits_for_ever
    write_timeout::who_is_given_up_is_counted_once
    drain::a_lame_duck_turns_nobody_away
    drain::http2_hears_of_a_lame_duck_at_once_and_is_served_on
    drain::a_goaway_never_names_more_than_the_one_before
    drain::an_idle_connection_has_a_last_chance
    drain::http2_that_has_just_come_has_a_last_chance
    drain::without_a_last_chance_an_idle_connection_ends_at_once
    drain::half_a_head_has_a_little_longer
    drain::half_a_head_after_a_body_that_nobody_read_has_a_little_longer
    drain::a_handshake_has_a_little_longer
    drain::a_handshake_from_the_backlog_has_no_longer
    drain::who_ends_his_handshake_has_a_last_chance
    drain::a_handshake_that_ends_after_the_begin_is_served
    drain::who_waits_in_the_backlog_is_served
    drain::what_is_in_flight_finishes
    drain::a_response_that_had_begun_is_followed_by_a_last_chance
    drain::what_runs_at_the_deadline_is_reset_and_named
    drain::without_a_deadline_what_runs_is_waited_for
    drain::a_second_word_ends_it_at_once
    drain::who_is_idle_or_silent_is_not_cut
    drain::a_stream_is_told_and_knows_the_deadline
    drain::a_web_socket_is_told_and_waited_for
    drain::a_web_socket_that_goes_on_is_cut
    drain::closes_are_spread_over_their_window
    drain::it_tells_what_it_waits_for
    drain::however_clients_live_it_ends_in_time
    overload::past_the_limit_a_request_reads_a_503_at_once
    overload::a_shed_request_keeps_its_connection
    overload::a_streaming_body_holds_its_slot
    overload::a_client_that_leaves_gives_its_slot_back
    overload::a_panic_gives_its_slot_back
    overload::an_exempt_request_is_served_at_the_limit
    overload::who_waits_is_served_when_a_slot_is_free
    overload::a_wait_ends_in_time
    overload::who_leaves_the_room_makes_way
    overload::a_shed_call_reads_unavailable
    overload::a_shed_upload_still_reads_the_503
    overload::a_connection_that_reads_only_refusals_ends
    overload::a_web_socket_holds_no_slot
    overload::a_drain_serves_who_waits
    overload::pressure_pauses_accepting
    overload::who_would_be_too_late_is_refused_at_once
    overload::who_is_more_critical_goes_first
    overload::who_has_few_requests_in_the_house_goes_first
    overload::who_is_refused_is_told_a_second_of_its_own
    overload::a_limit_changes_while_requests_run
    overload::a_limit_that_finds_itself_lets_more_in_while_nothing_gets_slower
    overload::a_limit_that_finds_itself_refuses_who_would_only_queue
    overload::who_does_not_read_keeps_nobody_out_of_a_limit_that_finds_itself
}
