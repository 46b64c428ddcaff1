//! Plans a statement over `input`, and rewrites its plan so that each row keeps the origin of its record, hidden.
//!
//! The origin goes through what keeps rows: projections, filters, sorting, limits, windows, `unnest`, and joins with tables
//! that are looked into. It ends at aggregates, DISTINCT, UNION, and where `input` meets itself: a row there is no record.
//! `_file` and `_line` are columns of `input` that `*` leaves out. Called by `steps`, and by `plan` to check.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType};
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::logical_plan::builder::LogicalPlanBuilder;
use datafusion::logical_expr::{
    Expr, Filter, Join, LogicalPlan, Projection, SubqueryAlias, TableScan, TableSource, Window,
};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Ident, ObjectName, Query, SelectItem, SelectItemQualifiedWildcardKind, SetExpr,
    Statement as Ast, TableFactor, VisitMut, VisitorMut, WildcardAdditionalOptions,
};

use crate::engine::Engine;
use crate::origins::ORIGIN;
use crate::plan::INPUT;

/// The name of the file that a record stood in.
pub(crate) const FILE: &str = "_file";
/// The line on which a record begins.
pub(crate) const LINE: &str = "_line";

/// A statement's plan, with the columns of `input` that it sees.
pub(crate) struct Planned {
    pub plan: LogicalPlan,
    pub input: SchemaRef,
}

/// Plans one statement. `input` are the columns of the data; with `origin` the statement may name `_file` and `_line`.
pub(crate) async fn plan_statement(
    engine: &Engine,
    session: &SessionContext,
    sql: &str,
    input: &SchemaRef,
    origin: bool,
    table: &(dyn Fn(&SchemaRef) -> Result<Arc<dyn TableProvider>> + Sync),
) -> Result<Planned> {
    let plain = engine.statement(session, sql)?;
    session.register_table(INPUT, table(input)?)?;
    let failed = match engine.plan(session, plain).await {
        Ok(plan) => return Ok(Planned { plan, input: Arc::clone(input) }),
        Err(error) => error,
    };
    let added = added(input);
    if !origin || !added.iter().any(|field| sql.contains(field.name().as_str())) {
        return Err(failed);
    }
    let mut fields = input.fields().to_vec();
    fields.extend(added.iter().cloned().map(Arc::new));
    let input = Arc::new(Schema::new(fields));
    session.deregister_table(INPUT)?;
    session.register_table(INPUT, table(&input)?)?;
    let mut statement = engine.statement(session, sql)?;
    if let Statement::Statement(ast) = &mut statement {
        hide(ast, &added);
    }
    let plan = engine.plan(session, statement).await?;
    Ok(Planned { plan, input })
}

/// The columns that tell the origin, but for names that the data have.
fn added(input: &SchemaRef) -> Vec<Field> {
    let all = [Field::new(FILE, DataType::Utf8, false), Field::new(LINE, DataType::Int64, false)];
    all.into_iter().filter(|field| input.index_of(field.name()).is_err()).collect()
}

/// Leaves the added columns out of `*`, wherever `input` is what it stands for.
fn hide(statement: &mut Ast, added: &[Field]) {
    struct Hide(Vec<ObjectName>);
    impl VisitorMut for Hide {
        type Break = ();
        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            hide_in(&mut query.body, &self.0);
            ControlFlow::Continue(())
        }
    }
    let names = added.iter().map(|field| ObjectName::from(vec![Ident::new(field.name())])).collect();
    let _ = VisitMut::visit(statement, &mut Hide(names));
}

fn hide_in(body: &mut SetExpr, names: &[ObjectName]) {
    let select = match body {
        SetExpr::Select(select) => select,
        SetExpr::SetOperation { left, right, .. } => {
            hide_in(left, names);
            return hide_in(right, names);
        }
        _ => return,
    };
    let factors = select
        .from
        .iter()
        .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
    let called = factors.filter_map(|factor| match factor {
        TableFactor::Table { name, alias, .. } if name.to_string().eq_ignore_ascii_case(INPUT) => {
            Some(alias.as_ref().map_or_else(|| name.to_string(), |alias| alias.name.to_string()))
        }
        _ => None,
    });
    let called: Vec<String> = called.collect();
    let exclude = |options: &mut WildcardAdditionalOptions| {
        options.opt_exclude.get_or_insert_with(|| ExcludeSelectItem::Multiple(names.to_vec()));
    };
    for item in &mut select.projection {
        match item {
            SelectItem::Wildcard(options) if called.len() == 1 => exclude(options),
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options)
                if called.contains(&name.to_string()) =>
            {
                exclude(options);
            }
            _ => {}
        }
    }
}

/// The plan whose rows carry their origin in a last column; `None` where they are no records. `full` is `input` with the hidden
/// column.
pub(crate) fn carry(planned: &Planned, full: Arc<dyn TableProvider>) -> Result<Option<LogicalPlan>> {
    let Some(carried) = with_origin(&planned.plan, &provider_as_source(full))? else { return Ok(None) };
    let mut columns: Vec<Expr> = planned.plan.schema().columns().into_iter().map(Expr::Column).collect();
    columns.push(origin_of(&carried)?);
    Ok(Some(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(carried))?)))
}

fn with_origin(plan: &LogicalPlan, full: &Arc<dyn TableSource>) -> Result<Option<LogicalPlan>> {
    let child = |plan: &Arc<LogicalPlan>| Ok::<_, DataFusionError>(with_origin(plan, full)?.map(Arc::new));
    Ok(match plan {
        LogicalPlan::TableScan(scan) if is_input(scan) => {
            Some(LogicalPlanBuilder::scan(scan.table_name.clone(), Arc::clone(full), None)?.build()?)
        }
        LogicalPlan::SubqueryAlias(alias) => match child(&alias.input)? {
            Some(input) => {
                Some(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(input, alias.alias.clone())?))
            }
            None => None,
        },
        LogicalPlan::Filter(filter) => match child(&filter.input)? {
            Some(input) => Some(LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), input)?)),
            None => None,
        },
        LogicalPlan::Projection(projection) => match child(&projection.input)? {
            Some(input) => {
                let mut columns = projection.expr.clone();
                columns.push(origin_of(&input)?);
                Some(LogicalPlan::Projection(Projection::try_new(columns, input)?))
            }
            None => None,
        },
        LogicalPlan::Window(window) => match child(&window.input)? {
            Some(input) => Some(LogicalPlan::Window(Window::try_new(window.window_expr.clone(), input)?)),
            None => None,
        },
        LogicalPlan::Sort(_) | LogicalPlan::Limit(_) | LogicalPlan::Unnest(_) => {
            match plan.inputs().first() {
                Some(input) => match with_origin(input, full)? {
                    Some(input) => Some(plan.with_new_exprs(plan.expressions(), vec![input])?),
                    None => None,
                },
                None => None,
            }
        }
        LogicalPlan::Join(join) => joined(join, full)?,
        _ => None,
    })
}

/// A join of `input` with what is only looked into, that makes no row without a record.
fn joined(join: &Join, full: &Arc<dyn TableSource>) -> Result<Option<LogicalPlan>> {
    let (mut left, mut right) = (Arc::clone(&join.left), Arc::clone(&join.right));
    let keeps_records = match (scans_of_input(&left)?, scans_of_input(&right)?) {
        (1, 0) => {
            let Some(carried) = with_origin(&left, full)? else { return Ok(None) };
            left = Arc::new(carried);
            matches!(
                join.join_type,
                JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti
            )
        }
        (0, 1) => {
            let Some(carried) = with_origin(&right, full)? else { return Ok(None) };
            right = Arc::new(carried);
            matches!(
                join.join_type,
                JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti
            )
        }
        _ => false,
    };
    if !keeps_records {
        return Ok(None);
    }
    let (on, filter) = (join.on.clone(), join.filter.clone());
    let (kind, nulls) = (join.join_type, join.null_equality);
    let join = Join::try_new(left, right, on, filter, kind, join.join_constraint, nulls, join.null_aware)?;
    Ok(Some(LogicalPlan::Join(join)))
}

fn origin_of(plan: &LogicalPlan) -> Result<Expr> {
    let hidden = plan.schema().iter().find(|(_, field)| field.name() == ORIGIN);
    let hidden = hidden.map(|(table, _)| Expr::Column(Column::new(table.cloned(), ORIGIN)));
    hidden.ok_or_else(|| DataFusionError::Internal("the origin of a row was lost".to_owned()))
}

fn is_input(scan: &TableScan) -> bool {
    scan.table_name.table() == INPUT
}

/// How often a plan reads `input`.
pub(crate) fn scans_of_input(plan: &LogicalPlan) -> Result<usize> {
    let mut scans = 0;
    plan.apply_with_subqueries(|node| {
        scans += usize::from(matches!(node, LogicalPlan::TableScan(scan) if is_input(scan)));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(scans)
}

/// Turns joins around so that what is looked into is the side that is read first and held, and `input` the one that streams by.
/// Otherwise `input LEFT JOIN places` holds the whole file.
pub(crate) fn lookups_first(plan: LogicalPlan) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    let to_turn = |plan: &LogicalPlan| match plan {
        LogicalPlan::Join(join) => holds_input(join),
        _ => Ok(false),
    };
    if !plan.exists(to_turn)? {
        return Ok(plan);
    }
    let turned = plan.transform_up(|plan| match plan {
        LogicalPlan::Join(join) if holds_input(&join)? => {
            let on = join.on.into_iter().map(|(left, right)| (right, left)).collect();
            let (kind, constraint) = (join.join_type.swap(), join.join_constraint);
            let (left, right) = (join.right, join.left);
            let turned =
                Join::try_new(left, right, on, join.filter, kind, constraint, join.null_equality, false)?;
            Ok(Transformed::yes(LogicalPlan::Join(turned)))
        }
        LogicalPlan::TableScan(_) => Ok(Transformed::no(plan)),
        // The columns of a join below may stand in another order now.
        other => Ok(Transformed::yes(other.recompute_schema()?)),
    })?;
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(turned.data))?))
}

/// Whether a join would hold `input` in memory.
fn holds_input(join: &Join) -> Result<bool> {
    Ok(!join.null_aware && scans_of_input(&join.left)? > 0 && scans_of_input(&join.right)? == 0)
}
