//! One operation as data: who may ask, what is sent, what comes back.

use http::StatusCode;
use schemars::JsonSchema;
use serde_json::Value;

use super::schema::{MakeSchema, of};

/// Who may ask. What each accepts is in `auth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// Nobody is asked who they are.
    Anybody,
    /// `TeamAuth`.
    Team,
    /// `TeamAdminAuth`.
    TeamAdmin,
    /// `TeamsAuth`.
    Lister,
    /// `AdminAuth`.
    Operator,
    /// Whoever has the token of the volume: `volumes::content::Opened`.
    Volume,
}

/// Whether a body must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Required,
    Optional,
}

/// What is sent.
pub(super) struct RequestBody {
    pub(super) schema: MakeSchema,
    pub(super) presence: Presence,
    /// What this operation asks beyond the type.
    pub(super) narrowed: Option<Value>,
    pub(super) example: Option<Value>,
}

/// What comes back when it went well.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content: Content,
    pub(super) headers: &'static [&'static str],
}

pub(super) enum Content {
    Nothing,
    Json(MakeSchema),
    /// An object whose shape is told elsewhere.
    Object,
    /// A tar archive.
    Archive,
    /// Whatever a file holds.
    Bytes,
    Text,
}

/// A parameter of the query or a header.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) place: &'static str,
    pub(super) required: bool,
    pub(super) schema: Value,
}

/// One method on one path.
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) caller: Caller,
    pub(super) parameters: Vec<Parameter>,
    pub(super) body: Option<RequestBody>,
    /// An archive is sent, and no JSON.
    pub(super) archive: bool,
    pub(super) answers: Vec<Answer>,
    /// Statuses of 400 and more that belong to this operation, besides those of every operation of its kind.
    pub(super) refusals: Vec<u16>,
    pub(super) deprecated: bool,
}

/// An operation that asks for a team's credentials, answers nothing yet and takes no body.
pub(super) fn operation(
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
) -> Operation {
    Operation {
        method,
        path,
        id,
        summary,
        caller: Caller::Team,
        parameters: Vec::new(),
        body: None,
        archive: false,
        answers: Vec::new(),
        refusals: Vec::new(),
        deprecated: false,
    }
}

impl Operation {
    pub(super) fn of(self, caller: Caller) -> Self {
        Self { caller, ..self }
    }

    /// A parameter of the query that may be missing.
    pub(super) fn query(self, name: &'static str, schema: Value) -> Self {
        self.parameter("query", name, false, schema)
    }

    /// A parameter of the query that must be there.
    pub(super) fn needs_query(self, name: &'static str, schema: Value) -> Self {
        self.parameter("query", name, true, schema)
    }

    /// A header that may be missing.
    pub(super) fn header(self, name: &'static str, schema: Value) -> Self {
        self.parameter("header", name, false, schema)
    }

    fn parameter(
        mut self,
        place: &'static str,
        name: &'static str,
        required: bool,
        schema: Value,
    ) -> Self {
        self.parameters.push(Parameter {
            name,
            place,
            required,
            schema,
        });
        self
    }

    /// A body that must be there.
    pub(super) fn takes<T: JsonSchema>(self) -> Self {
        self.with_body::<T>(Presence::Required)
    }

    /// A body that may be missing.
    pub(super) fn may_take<T: JsonSchema>(self) -> Self {
        self.with_body::<T>(Presence::Optional)
    }

    fn with_body<T: JsonSchema>(self, presence: Presence) -> Self {
        let body = RequestBody {
            schema: of::<T>,
            presence,
            narrowed: None,
            example: None,
        };
        Self {
            body: Some(body),
            ..self
        }
    }

    /// A tar archive that must be there.
    pub(super) fn takes_archive(self) -> Self {
        Self {
            archive: true,
            ..self
        }
    }

    /// Says what the body must be beyond its type.
    pub(super) fn narrowed(mut self, schema: Value) -> Self {
        if let Some(body) = &mut self.body {
            body.narrowed = Some(schema);
        }
        self
    }

    /// Shows a body that works.
    pub(super) fn example(mut self, example: Value) -> Self {
        if let Some(body) = &mut self.body {
            body.example = Some(example);
        }
        self
    }

    /// 200 with this body.
    pub(super) fn answers<T: JsonSchema>(self) -> Self {
        self.answer(StatusCode::OK, Content::Json(of::<T>))
    }

    /// 201 with this body.
    pub(super) fn creates<T: JsonSchema>(self) -> Self {
        self.answer(StatusCode::CREATED, Content::Json(of::<T>))
    }

    /// Any success.
    pub(super) fn answer(mut self, status: StatusCode, content: Content) -> Self {
        self.answers.push(Answer {
            status,
            content,
            headers: &[],
        });
        self
    }

    /// Headers of the answer that clients read.
    pub(super) fn answer_headers(mut self, headers: &'static [&'static str]) -> Self {
        if let Some(answer) = self.answers.last_mut() {
            answer.headers = headers;
        }
        self
    }

    /// How it refuses.
    pub(super) fn refuses(mut self, statuses: &[u16]) -> Self {
        self.refusals.extend_from_slice(statuses);
        self
    }

    pub(super) fn deprecated(self) -> Self {
        Self {
            deprecated: true,
            ..self
        }
    }

    /// Every status of 400 and more that a caller may see, in order.
    pub(super) fn all_refusals(&self) -> Vec<u16> {
        let of_caller: &[u16] = match self.caller {
            Caller::Anybody => &[],
            Caller::Team => &[400, 401, 403, 404],
            Caller::TeamAdmin => &[400, 401, 404],
            Caller::Lister => &[400, 401, 403],
            Caller::Operator => &[401],
            Caller::Volume => &[400, 401, 403, 404],
        };
        let of_database: &[u16] = match self.caller {
            Caller::Anybody => &[],
            _ => &[500, 503, 504, 507],
        };
        let of_body: &[u16] = self.body.as_ref().map_or(&[], |_| &[400, 408, 413]);
        let reads_path = self.path.contains('{') && self.caller != Caller::Anybody;
        let of_path: &[u16] = if reads_path { &[400] } else { &[] };
        let mut all = [&self.refusals[..], of_caller, of_database, of_body, of_path].concat();
        all.sort_unstable();
        all.dedup();
        all
    }
}
