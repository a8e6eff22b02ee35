//! A token cache while it is written.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use rayon::prelude::*;
use tempfile::NamedTempFile;

use super::{Counts, HEADER_BYTES, Layout, MAGIC, VERSION};
use crate::error::DataError;
use crate::mask::TokenizedSample;
use crate::preference::LeftOut;

/// Samples that are tokenised together; a part of what is in memory, not of the result.
const SAMPLES_AT_A_TIME: usize = 1024;

/// A cache that is written aside, so that no reader ever sees half a file.
pub(super) struct Unfinished<'a> {
    path: &'a Path,
    ids: BufWriter<NamedTempFile>,
    /// Come behind the ids.
    masks: BufWriter<File>,
    counts: Counts,
    offsets: Vec<u64>,
    first_targets: Vec<u32>,
    splittable: Vec<u8>,
    /// Items that were taken.
    items: usize,
}

impl<'a> Unfinished<'a> {
    pub(super) fn new(path: &'a Path) -> Result<Self, DataError> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let failed = || DataError::io("write", path);
        let ids = NamedTempFile::new_in(directory).map_err(failed())?;
        let mut ids = BufWriter::with_capacity(1 << 20, ids);
        ids.write_all(&[0; HEADER_BYTES]).map_err(failed())?;
        let masks = tempfile::tempfile_in(directory).map_err(failed())?;
        Ok(Self {
            path,
            ids,
            masks: BufWriter::with_capacity(1 << 18, masks),
            counts: Counts::default(),
            offsets: vec![0],
            first_targets: Vec::new(),
            splittable: Vec::new(),
            items: 0,
        })
    }

    /// An item of which some sample has no target is left out whole.
    pub(super) fn add<T: Sync>(
        &mut self,
        items: &[T],
        encode: impl Fn(&T) -> Result<Vec<TokenizedSample>, DataError> + Sync,
    ) -> Result<(), DataError> {
        for group in items.chunks(SAMPLES_AT_A_TIME) {
            let numbered = group.par_iter().enumerate().map(|(i, item)| {
                encode(item).map_err(|error| DataError::Sample {
                    number: self.items + i + 1,
                    source: Box::new(error),
                })
            });
            let encoded = numbered.collect::<Result<Vec<_>, _>>()?;
            self.items += group.len();
            let failed = |error| DataError::io("write", self.path)(error);
            self.write(encoded).map_err(failed)?;
        }
        Ok(())
    }

    fn write(&mut self, items: Vec<Vec<TokenizedSample>>) -> std::io::Result<()> {
        for item in items {
            let is_learned = |sample: &TokenizedSample| sample.supervised.contains(&true);
            if !item.iter().all(is_learned) {
                self.counts.without_targets += item.len() as u64;
                continue;
            }
            for sample in item {
                let first_target = sample.supervised.iter().take_while(|s| !**s).count();
                let mask: Vec<u8> = sample.supervised.iter().map(|s| u8::from(*s)).collect();
                self.ids.write_all(bytemuck::cast_slice(&sample.ids))?;
                self.masks.write_all(&mask)?;
                self.counts.samples += 1;
                self.counts.tokens += sample.ids.len() as u64;
                self.counts.supervised += sample.supervised_count() as u64;
                self.offsets.push(self.counts.tokens);
                self.first_targets.push(first_target as u32);
                self.splittable.push(u8::from(sample.splittable));
            }
        }
        Ok(())
    }

    /// Syncs and renames.
    pub(super) fn finish(self, digest: &[u8; 32], left_out: LeftOut) -> Result<(), DataError> {
        let counts = Counts {
            left_out,
            ..self.counts
        };
        if counts.supervised == 0 {
            return Err(DataError::NothingSupervised {
                found: format!(
                    "none of {} samples has a token to learn",
                    counts.without_targets
                ),
            });
        }
        let failed = || DataError::io("write", self.path);
        let mut writer = self.ids;
        let mut masks = (self.masks.into_inner()).map_err(|error| failed()(error.into_error()))?;
        masks.rewind().map_err(failed())?;
        std::io::copy(&mut masks, &mut writer).map_err(failed())?;
        let layout = Layout::of(&counts);
        let zeros = layout.offsets - layout.masks - counts.tokens as usize;
        for part in [
            &[0; 8][..zeros],
            bytemuck::cast_slice(&self.offsets),
            bytemuck::cast_slice(&self.first_targets),
            &self.splittable,
        ] {
            writer.write_all(part).map_err(failed())?;
        }
        writer.seek(SeekFrom::Start(0)).map_err(failed())?;
        writer
            .write_all(&header(digest, &counts))
            .map_err(failed())?;
        let aside = writer.into_inner().map_err(|e| failed()(e.into_error()))?;
        aside.as_file().sync_all().map_err(failed())?;
        aside.persist(self.path).map_err(|e| failed()(e.error))?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))
            .and_then(|directory| directory.sync_all())
            .map_err(failed())
    }
}

fn header(digest: &[u8; 32], counts: &Counts) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend(MAGIC);
    header.extend(VERSION.to_le_bytes());
    header.extend(digest);
    for count in [
        counts.samples,
        counts.tokens,
        counts.supervised,
        counts.without_targets,
        counts.left_out.equal,
        counts.left_out.empty,
    ] {
        header.extend(count.to_le_bytes());
    }
    header
}
