//! Pieces in rows: by best fit, or in one stream.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::plan::PackingReport;
use super::{Piece, split};

pub(super) fn tokens_of(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| u64::from(piece.length)).sum()
}

/// Longest first, each into the fullest row that still has room: the number of rows depends on the lengths alone.
pub(crate) fn best_fit(mut pieces: Vec<Piece>, length: u32) -> Vec<Vec<Piece>> {
    pieces.sort_by_key(|piece| Reverse(piece.length));
    let mut rows: Vec<Vec<Piece>> = Vec::new();
    // Rows by the room that they have left.
    let mut open: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for piece in pieces {
        let room = open.range(piece.length..).next().map(|(room, _)| *room);
        let (row, room) = match room {
            Some(room) => {
                let row = open.get_mut(&room).and_then(Vec::pop);
                if open.get(&room).is_some_and(Vec::is_empty) {
                    open.remove(&room);
                }
                (row, room)
            }
            None => (None, length),
        };
        let row = row.unwrap_or_else(|| {
            rows.push(Vec::new());
            rows.len() - 1
        });
        rows[row].push(piece);
        let left = room - piece.length;
        if left > 0 {
            open.entry(left).or_default().push(row);
        }
    }
    rows
}

pub(super) fn stream(
    pieces: Vec<Piece>,
    length: u32,
    report: &mut PackingReport,
) -> Vec<Vec<Piece>> {
    let mut rows: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    for piece in pieces {
        // One token alone has nothing to predict: the last position of such a row stays padding.
        if room < 2 {
            room = 0;
        }
        let first = if room == 0 { length } else { room };
        let mut cuts = 0;
        for cut in split(piece, first, length) {
            if room == 0 {
                rows.push(Vec::new());
                room = length;
            }
            room -= cut.length;
            if let Some(row) = rows.last_mut() {
                row.push(cut);
            }
            cuts += 1;
        }
        report.split_samples += u64::from(cuts > 1);
    }
    rows
}
