//! A collection as a table of DataFusion. What a statement asks for decides what is read: only the columns that it names,
//! only the partitions of the keys that it names, and where it wants what the log took since a moment, only that part.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TableProviderFilterPushDown, TableType, Volatility,
};
use datafusion::physical_plan::ExecutionPlan;
use primal_core::log::{Extent, partition_of};
use primal_core::{Offset, Partition, Timestamp};

use crate::fold::{State, fold};
use crate::rows::{self, DELETED, KEY, RECORDED};
use crate::{History, QueryError, Source};

/// One collection as of a moment.
#[derive(Debug)]
pub(crate) struct CollectionTable {
    history: History,
    source: Source,
    as_of: Option<Timestamp>,
    schema: SchemaRef,
}

/// What a statement's conditions say of what has to be read.
#[derive(Default)]
struct Wanted {
    keys: Option<Vec<String>>,
    since: Option<Timestamp>,
}

impl CollectionTable {
    pub(crate) fn new(history: History, source: Source, as_of: Option<Timestamp>) -> Self {
        let all = rows::schema(source.table.as_deref());
        let shown = all.fields().iter().filter(|field| field.name() != DELETED).cloned().collect::<Vec<_>>();
        CollectionTable { history, source, as_of, schema: Arc::new(Schema::new(shown)) }
    }

    /// The rows of all partitions that have to be read.
    async fn load(&self, columns: &SchemaRef, wanted: &Wanted) -> Result<Vec<Vec<RecordBatch>>, QueryError> {
        let extents = self.history.extents(&self.source, self.as_of).await?;
        let starts = match wanted.since {
            Some(since) => Some(self.history.log.offsets_at(&self.source.collection.topic(), since).await?),
            None => None,
        };
        let is_whole = self.source.epochs.current().epoch == self.source.epochs.oldest();
        let count = extents.len() as u32;
        let mut loads = Vec::new();
        for (partition, extent) in (0..).zip(extents) {
            // Where the partition count was changed a key may be in two.
            let has_key = |keys: &Vec<String>| keys.iter().any(|key| partition_of(key.as_bytes(), count) == partition);
            if is_whole && wanted.keys.as_ref().is_some_and(|keys| !has_key(keys)) {
                continue;
            }
            let start = starts.as_ref().and_then(|starts| starts.get(partition as usize)).copied();
            loads.push(self.partition(partition, start, extent, columns, wanted.keys.as_deref(), is_whole));
        }
        let loaded = futures::future::try_join_all(loads).await?;
        if is_whole {
            return Ok(loaded.into_iter().map(|(batches, _)| batches).collect());
        }
        let mut newest = State::new();
        for (_, state) in loaded {
            for (key, row) in state {
                if newest.get(&key).is_none_or(|held| held.version < row.version) {
                    newest.insert(key, row);
                }
            }
        }
        Ok(vec![vec![self.batch(columns, &newest)?]])
    }

    /// The rows of one partition; its state where keys may be in others too.
    async fn partition(
        &self,
        partition: Partition,
        start: Option<Offset>,
        extent: Extent,
        columns: &SchemaRef,
        keys: Option<&[String]>,
        is_whole: bool,
    ) -> Result<(Vec<RecordBatch>, State), QueryError> {
        let topic = self.source.collection.topic();
        let table = self.source.table.as_deref();
        let snapshot = match start {
            Some(_) => None,
            None => self.history.nearest(&self.source, partition, extent).await?,
        };
        let from = start.or(snapshot.as_ref().map(|snapshot| snapshot.offset())).unwrap_or(0).max(extent.start);
        let mut newer = State::new();
        let wanted = |key: &str| keys.is_none_or(|keys| keys.iter().any(|wanted| wanted == key));
        let epochs = &self.source.epochs;
        fold(&*self.history.log, &topic, partition, epochs, from..extent.end, wanted, &mut newer).await?;
        if !is_whole {
            let mut state = match snapshot {
                Some(snapshot) => snapshot.state(snapshot.open(table)?, keys)?,
                None => State::new(),
            };
            state.extend(newer);
            return Ok((Vec::new(), state));
        }
        let mut batches = match snapshot {
            Some(snapshot) => snapshot.batches(snapshot.open(table)?, table, columns, keys, &newer)?,
            None => Vec::new(),
        };
        batches.push(self.batch(columns, &newer)?);
        Ok((batches, State::new()))
    }

    fn batch(&self, columns: &SchemaRef, state: &State) -> Result<RecordBatch, QueryError> {
        let rows = state.iter().filter(|(_, row)| row.data.is_some()).map(|(key, row)| (key.as_str(), row));
        rows::batch(self.source.table.as_deref(), columns, rows).map_err(|e| QueryError::Sql(e.to_string()))
    }
}

/// A condition as `column, operator, value`.
fn comparison(filter: &Expr) -> Option<(&str, Operator, &ScalarValue)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else { return None };
    match (&**left, &**right) {
        (Expr::Column(column), Expr::Literal(value, _)) => Some((&column.name, *op, value)),
        (Expr::Literal(value, _), Expr::Column(column)) => Some((&column.name, op.swap()?, value)),
        _ => None,
    }
}

fn text(value: &ScalarValue) -> Option<String> {
    value.try_as_str().flatten().map(str::to_owned)
}

/// The keys that a condition names.
fn keys(filter: &Expr) -> Option<Vec<String>> {
    if let Some((KEY, Operator::Eq, value)) = comparison(filter) {
        return Some(vec![text(value)?]);
    }
    match filter {
        Expr::InList(list) if !list.negated => {
            let Expr::Column(column) = &*list.expr else { return None };
            let one = |expr: &Expr| if let Expr::Literal(value, _) = expr { text(value) } else { None };
            (column.name == KEY).then(|| list.list.iter().map(one).collect()).flatten()
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            Some(keys(left)?.into_iter().chain(keys(right)?).collect())
        }
        _ => None,
    }
}

/// The moment that a condition asks to be the earliest.
fn since(filter: &Expr) -> Option<Timestamp> {
    match comparison(filter)? {
        (RECORDED, Operator::Gt | Operator::GtEq, ScalarValue::TimestampMicrosecond(Some(at), _)) => {
            Some(Timestamp(*at))
        }
        (RECORDED, Operator::Gt | Operator::GtEq, ScalarValue::TimestampNanosecond(Some(at), _)) => {
            Some(Timestamp(at.div_euclid(1_000)))
        }
        (RECORDED, Operator::Gt | Operator::GtEq, ScalarValue::TimestampMillisecond(Some(at), _)) => {
            Some(Timestamp::from_millis(*at))
        }
        _ => None,
    }
}

#[async_trait]
impl TableProvider for CollectionTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let helps = |filter: &&Expr| keys(filter).is_some() || since(filter).is_some();
        let one = |filter| {
            if helps(filter) { TableProviderFilterPushDown::Inexact } else { TableProviderFilterPushDown::Unsupported }
        };
        Ok(filters.iter().map(one).collect())
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = match projection {
            Some(places) => Arc::new(self.schema.project(places)?),
            None => self.schema.clone(),
        };
        let mut wanted = Wanted::default();
        for filter in filters {
            // Of several conditions any one narrows enough; the rows are compared with all.
            wanted.keys = wanted.keys.or_else(|| keys(filter));
            wanted.since = wanted.since.max(since(filter));
        }
        let failed = |error: QueryError| DataFusionError::External(Box::new(error));
        let partitions = self.load(&columns, &wanted).await.map_err(failed)?;
        Ok(MemorySourceConfig::try_new_exec(&partitions, columns, None)?)
    }
}

/// `json_get(text, pointer)`: what a JSON Pointer (RFC 6901) leads to: a text as it is, anything else as JSON, null where
/// there is nothing.
pub(crate) fn json_get() -> ScalarUDF {
    ScalarUDF::from(JsonGet {
        signature: Signature::exact(vec![DataType::Utf8, DataType::Utf8], Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonGet {
    signature: Signature,
}

impl ScalarUDFImpl for JsonGet {
    fn name(&self) -> &str {
        "json_get"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let texts: Vec<&StringArray> = arrays.iter().filter_map(|a| a.as_any().downcast_ref()).collect();
        let [data, pointer] = texts.as_slice() else { return exec_err!("json_get takes two texts") };
        let get = |index: usize| {
            let value: serde_json::Value = serde_json::from_str(data.value(index)).ok()?;
            match value.pointer(pointer.value(index))? {
                serde_json::Value::Null => None,
                serde_json::Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            }
        };
        let one = |index: usize| if data.is_null(index) || pointer.is_null(index) { None } else { get(index) };
        let found: StringArray = (0..data.len()).map(one).collect();
        Ok(ColumnarValue::Array(Arc::new(found) as ArrayRef))
    }
}
