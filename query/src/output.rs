//! An answer in the forms that it can be printed in.

use std::io::Write;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::parquet::arrow::ArrowWriter;

use crate::QueryError;

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values (RFC 4180), with a line of names.
    Csv,
    /// One JSON object a line; nulls left out.
    Json,
    /// A Parquet file.
    Parquet,
}

/// The rows of an answer.
#[derive(Debug)]
pub struct Answer {
    /// The columns.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
}

impl Answer {
    /// How many rows.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// The names of the columns.
    pub fn names(&self) -> Vec<&str> {
        self.schema.fields().iter().map(|field| field.name().as_str()).collect()
    }

    /// Each row as texts; nulls are empty.
    ///
    /// # Errors
    /// A value has no text.
    pub fn texts(&self) -> Result<Vec<Vec<String>>, QueryError> {
        let options = FormatOptions::default().with_null("").with_timestamp_tz_format(Some("%Y-%m-%dT%H:%M:%S%.fZ"));
        let mut all = Vec::with_capacity(self.rows());
        for batch in &self.batches {
            let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
            let columns = columns.collect::<Result<Vec<_>, _>>().map_err(|e| QueryError::Sql(e.to_string()))?;
            let row = |index: usize| columns.iter().map(|column| column.value(index).to_string()).collect();
            all.extend((0..batch.num_rows()).map(row));
        }
        Ok(all)
    }

    /// Prints it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, format: Format, out: &mut (dyn Write + Send)) -> Result<(), QueryError> {
        let failed = |error: &dyn std::fmt::Display| QueryError::Files(error.to_string());
        match format {
            Format::Csv => {
                let mut writer = datafusion::arrow::csv::WriterBuilder::new().with_header(true).build(out);
                for batch in &self.batches {
                    writer.write(batch).map_err(|e| failed(&e))?;
                }
            }
            Format::Json => {
                let mut writer = datafusion::arrow::json::LineDelimitedWriter::new(out);
                for batch in &self.batches {
                    writer.write(batch).map_err(|e| failed(&e))?;
                }
                writer.finish().map_err(|e| failed(&e))?;
            }
            Format::Parquet => {
                let mut writer = ArrowWriter::try_new(out, self.schema.clone(), None).map_err(|e| failed(&e))?;
                for batch in &self.batches {
                    writer.write(batch).map_err(|e| failed(&e))?;
                }
                writer.close().map_err(|e| failed(&e))?;
            }
        }
        Ok(())
    }
}
