//! Who checks the promises of docs/semantics.md.
//!
//! Directly above a test stands what it checks, in the document's own words, a line for each promise:
//! `/// docs/semantics.md: "words of the promise".` What is checked within the crates is in [`UNIT`], and what no test
//! checks in [`UNTESTED`]. A promise is a bullet or a row of a table; the introduction and what is not yet are none.

use anyhow::{Context, Result, bail, ensure};

/// What tests within the crates check: the words, where the test is, and its name.
pub(crate) const UNIT: &[(&str, &str, &str)] = &[
    (
        "was checked against the BLAKE3 name of the chunk it came from, by the client",
        "dfs-client/src/chunks/tests.rs",
        "a_flipped_bit_is_never_returned_and_is_reported",
    ),
    (
        "The same holds for what chunk daemons copy among themselves",
        "chunkd/tests/daemon/resync.rs",
        "a_damaged_copy_is_replaced_and_a_damaged_source_is_not_believed",
    ),
    (
        "sum for each 4 KiB, bound to the chunk's name and the place in it",
        "dfs-client/src/cache/disk/format.rs",
        "pages_are_bound_to_their_key_and_number",
    ),
    (
        "The sums guard against rot and torn writes",
        "dfs-client/src/cache/disk/tests.rs",
        "after_a_power_cut_what_is_there_is_right",
    ),
    (
        "on at least `min_replicas` stores",
        "metad/src/machine/tests/chunks.rs",
        "verdicts_count_members_with_fresh_answers",
    ),
    (
        "sets of a file with unsaved data are saved together with that data",
        "dfs-client/src/file/tests.rs",
        "times_are_saved_with_the_data_they_come_after",
    ),
    (
        "of one file a prefix of the order in which its data was sealed",
        "dfs-client/src/file/commit.rs",
        "groups_of_one_file_need_the_one_before_and_a_commit_has_its_bounds",
    ),
    (
        "one `write(2)` of up to 1 MiB is never split",
        "dfs-client/tests/buffer.rs",
        "readers_see_every_write_and_no_write_is_divided",
    ),
    (
        "is reported once per open handle, by the next close",
        "dfs-client/src/vfs/tests.rs",
        "bytes_that_are_lost_are_reported_once_and_not_shown_any_more",
    ),
    (
        "in any case by the next fsync of the handle",
        "dfs-client/src/vfs/tests.rs",
        "bytes_that_are_lost_are_reported_once_and_not_shown_any_more",
    ),
    (
        "the first fsync of whoever opens it later reports it",
        "dfs-client/src/vfs/tests/told.rs",
        "fsync_of_who_opens_a_file_later_tells_what_was_lost_of_it",
    ),
    (
        "does not take the place of a whole one unheard",
        "dfs-client/src/vfs/tests/told.rs",
        "what_is_left_of_a_file_does_not_take_the_place_of_another",
    ),
    (
        "is never shown in parts of its old pages",
        "dfs-client/src/vfs/tests/told.rs",
        "the_kernel_keeps_no_page_and_hears_no_length_before_old_pages_are_dropped",
    ),
    (
        "A signal does not end a call that waits for a server",
        "dfs-fuse/src/caller.rs",
        "who_changes_something_is_let_go_only_to_die",
    ),
    ("it is never dropped", "dfs-client/src/vfs/tests/told.rs", "an_error_that_nobody_heard_is_told_again"),
    (
        "as far as the data fits into one",
        "dfs-client/src/file/commit.rs",
        "a_rider_that_does_not_fit_comes_with_the_next_commit",
    ),
    (
        "all that was written is saved as if it had not been asked for",
        "dfs-client/src/file/tests.rs",
        "what_a_truncation_cuts_off_is_not_uploaded_and_stays_until_it_is_done",
    ),
    (
        "fails once with `ESTALE`",
        "dfs-client/src/file/tests.rs",
        "data_of_a_file_that_is_gone_is_stale_for_who_holds_it_and_no_loss_for_others",
    ),
    (
        "that was removed elsewhere, is dropped without an error",
        "dfs-client/src/file/tests.rs",
        "data_of_a_file_that_is_gone_is_stale_for_who_holds_it_and_no_loss_for_others",
    ),
    (
        "saving waits up to 30 s and then fails with `EIO`",
        "dfs-client/src/chunks/tests.rs",
        "too_few_stores_are_an_error_at_the_deadline_and_a_return_is_noticed",
    ),
    (
        "no mount says of a name that it is missing when it is not",
        "dfs-core/src/lease/tests.rs",
        "no_client_calls_a_name_absent_that_is_there",
    ),
    (
        "which is recalled before anybody else adds a name there",
        "metad/src/service/session/tests.rs",
        "names_that_are_lent_are_not_added_to_before_they_are_given_back",
    ),
    (
        "one that is reached and does not answer a recall, for 6 seconds",
        "dfs-core/src/lease/tests.rs",
        "one_that_beats_and_does_not_give_back_is_not_waited_for_for_ever",
    ),
    (
        "are looked up each time until a minute after the last lock",
        "dfs-client/src/vfs/careful.rs",
        "a_directory_is_careful_for_a_minute_after_its_last_lock",
    ),
    ("in the order of waiting, as a rule", "metad/src/live/waits.rs", "as_many_are_told_as_can_have_it_in_their_order"),
    (
        "when the holder waits, directly or over others, for the caller",
        "metad/src/live/waits.rs",
        "rings_are_found_over_any_number_of_owners",
    ),
    (
        "loses them after ten seconds, one that is silent after thirty",
        "metad/src/live/sessions.rs",
        "who_has_left_is_doubted_at_once_and_stale_soon",
    ),
    (
        "When others want them",
        "metad/src/background/sessions.rs",
        "a_stale_session_ends_when_others_want_what_it_locked_and_not_before",
    ),
    (
        "A file has at most 4,096 locked ranges, a mount 16,384",
        "metad/src/machine/tests/locks.rs",
        "a_file_and_a_session_have_so_many_and_giving_up_always_works",
    ),
    ("4,096 callers that wait", "metad/src/live/waits.rs", "a_session_has_so_many_that_wait_and_no_more"),
    (
        "an ACL that says no more than the mode is not kept",
        "metad/src/machine/tests/locks.rs",
        "an_acl_and_the_mode_follow_each_other",
    ),
    (
        "whatever the umask, in the same atomic operation",
        "metad/src/machine/tests/locks.rs",
        "a_default_acl_decides_instead_of_the_umask",
    ),
    (
        "A commit is done once, however often it was sent",
        "metad/src/machine/tests/sessions.rs",
        "a_lane_does_each_number_once_and_repeats_its_last_reply",
    ),
    (
        "A commit is done once, however often it was sent",
        "dfs-client/src/meta/tests.rs",
        "a_commit_is_done_once_however_often_the_stream_breaks",
    ),
    (
        "sent again only if the chunk that has them is gone by then",
        "dfs-client/src/file/tests.rs",
        "a_chunk_that_should_be_there_is_not_sent_and_if_it_is_gone_it_is",
    ),
    (
        "`KEEP_SIZE` changes times only",
        "metad/src/machine/tests/clones.rs",
        "length_alone_moves_times_and_shrinks_nothing",
    ),
    (
        "A long hole is made in steps, from its start",
        "metad/src/machine/tests/clones.rs",
        "a_long_clone_or_hole_is_done_in_steps_from_its_start",
    ),
    (
        "Setgid without group execution stays",
        "metad/src/machine/tests/names.rs",
        "setattr_sets_what_it_says_and_kills_privileges",
    ),
    (
        "4,096 a file, 16,384 a mount",
        "metad/src/machine/tests/locks.rs",
        "a_file_and_a_session_have_so_many_and_giving_up_always_works",
    ),
    ("hard links of a file | 1,048,576", "metad/src/machine/tests/names.rs", "a_file_has_1048576_names_and_no_more"),
    ("sessions (mounts) | 10,000", "metad/src/machine/tests/sessions.rs", "ten_thousand_sessions_are_open_and_no_more"),
    ("chunk | 64 MiB", "proto/src/convert/tests/limits.rs", "chunks_and_extents"),
    (
        "metad's own downtime never ends a session",
        "metad/src/live/sessions.rs",
        "what_metad_stood_still_is_nobodys_silence",
    ),
];

/// What no test checks.
pub(crate) const UNTESTED: &[&str] = &[];

/// The same with one space wherever there is white space, as quotes have it.
fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// All that is promised: the bullets and the rows of tables, each on one line. A paragraph counts as well, so that no
/// promise can hide in one.
pub(crate) fn promises(document: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let sections = document.split("\n## ").skip(1).filter(|section| section.lines().next() != Some("Not yet"));
    for section in sections {
        let mut goes_on = false;
        for line in section.lines().skip(1) {
            let is_blank = line.trim().is_empty();
            let begins = !goes_on || line.starts_with("- ") || line.starts_with('|');
            goes_on = !is_blank;
            if line.starts_with("|--") {
                // What is above this was no row.
                found.pop();
            } else if begins && !is_blank {
                found.push(line.to_owned());
            } else if let Some(last) = found.last_mut() {
                last.extend([" ", line]);
            }
        }
    }
    found.iter().map(|text| on_one_line(text)).collect()
}

/// What the tests of a source quote.
///
/// # Errors
/// Something begins like a quote and does not go on so, or is not above a test.
pub(crate) fn quotes(source: &str) -> Result<Vec<String>> {
    let (mut found, mut needs_test) = (Vec::new(), false);
    for line in source.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("///").or_else(|| line.strip_prefix("//")) {
            let Some(quote) = comment.trim_start().strip_prefix("docs/semantics.md:") else { continue };
            let words = quote.strip_prefix(" \"").and_then(|rest| rest.strip_suffix("\"."));
            let words = words.filter(|words| !words.is_empty() && !words.contains('"'));
            found.push(words.with_context(|| format!("this is not the form of a quote: {line}"))?.to_owned());
            needs_test = true;
        } else if needs_test {
            let is_test = line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            ensure!(is_test, "no test is directly below {:?}, but {line}", found.last());
            needs_test = false;
        }
    }
    ensure!(!needs_test, "no test is below {:?}", found.last());
    Ok(found)
}

/// Which promise has these words.
///
/// # Errors
/// None, or more than one.
pub(crate) fn place(promises: &[String], words: &str) -> Result<usize> {
    let words = on_one_line(words);
    let places: Vec<usize> = (0..promises.len()).filter(|n| promises[*n].contains(&words)).collect();
    match places.as_slice() {
        [place] => Ok(*place),
        [] => bail!("docs/semantics.md does not promise {words:?}"),
        _ => bail!("docs/semantics.md promises more than once {words:?}"),
    }
}

#[test]
fn promises_and_their_quotes_are_found() -> Result<()> {
    let document = "# What\n\n- none\n\n## One\n\n- `a` is\n  so, \"b\"\n- c\n  `d`  e\n\nf g\n\n## Two\n\n\
        | what | limit |\n|---|---|\n| h | 1 |\n| i | 1 |\n\n## Not yet\n\n- j\n";
    let found = promises(document);
    assert_eq!(found, ["- `a` is so, \"b\"", "- c `d` e", "f g", "| h | 1 |", "| i | 1 |"]);
    assert_eq!((place(&found, "`a` is so")?, place(&found, "c\n `d`")?, place(&found, "i | 1")?), (0, 1, 4));
    for none in ["j", "none", "what | limit", "so, c"] {
        assert!(place(&found, none).is_err(), "{none}");
    }
    assert!(place(&found, "| 1 |").is_err(), "it fits two");

    // Apart, or they would be taken for quotes of this file.
    let (test, one, two) = ("#[test]", "/// docs/semantics.md: \"`a` is\".", "// docs/semantics.md: \"c\".");
    let source = ["//! docs/semantics.md: no", one, "/// More.", two, test, "fn f() {", "let _ = 1; // docs/", "}"];
    assert_eq!(quotes(&source.join("\n"))?, ["`a` is", "c"]);
    for bad in ["docs/semantics.md: \"\".", "docs/semantics.md: \"a\"", "docs/semantics.md: \"a\" or \"b\"."] {
        assert!(quotes(&format!("    /// {bad}\n    #[tokio::test]")).is_err(), "{bad}");
    }
    for below in ["fn f() {}", "", "const N: u8 = 1;"] {
        assert!(quotes(&[one, below].join("\n")).is_err(), "{below}");
    }
    Ok(())
}
