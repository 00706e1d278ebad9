//! `aither-cli models`: what the node serves, as a table.

use serde_json::Value;

use crate::{
    client::{Client, Model, ModelList},
    error::Error,
    render::{self, Output},
};

/// Lists the models.
pub(crate) async fn run(client: &Client, output: &Output, json: bool) -> Result<(), Error> {
    let answer = client.models().await?;
    if json {
        return output.line(&answer.to_string());
    }
    let list = read(client, answer)?;
    if list.data.is_empty() {
        render::remark(
            "the node serves no model; fetch one on its machine: \
             aither-node models pull smollm2:135m",
        );
        return Ok(());
    }
    let head = [
        "NAME",
        "PARAMETERS",
        "QUANTIZATION",
        "CONTEXT",
        "SIZE",
        "LOADED",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(list.data.iter().map(row));
    output.piece(&render::table(&rows))
}

/// Reads the list that a node answers with.
pub(super) fn read(client: &Client, answer: Value) -> Result<ModelList, Error> {
    serde_json::from_value(answer).map_err(|cause| Error::Unexpected {
        server: client.server().to_owned(),
        what: format!("a list of models that cannot be read ({cause})"),
    })
}

fn row(model: &Model) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let name = match &model.alias_of {
        Some(real) => format!("{} -> {real}", model.id),
        None => model.id.clone(),
    };
    let loaded = model
        .loaded
        .map(|loaded| if loaded { "yes" } else { "no" }.to_owned());
    let cells = [
        name,
        or_dash(model.parameters.map(render::parameters)),
        or_dash(model.quantization.clone()),
        or_dash(model.context_length.map(|length| length.to_string())),
        or_dash(loaded),
    ];
    // A name with a newline would forge a row of its own.
    cells.map(|cell| cell.replace(['\n', '\t'], " ")).to_vec()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn row_shows_what_the_node_knows() {
        let model = json!({
            "id": "smollm2:135m", "parameters": 134_515_008, "quantization": "Q4_1",
            "context_length": 8192, "loaded": true
        });
        let model: Model = serde_json::from_value(model).unwrap();
        assert_eq!(row(&model), ["smollm2:135m", "135M", "Q4_1", "8192", "yes"]);
    }

    #[test]
    fn alias_names_the_model_behind_it() {
        let model = json!({"id": "llama3.1:8b", "alias_of": "smollm2:135m"});
        let model: Model = serde_json::from_value(model).unwrap();
        assert_eq!(row(&model)[0], "llama3.1:8b -> smollm2:135m");
    }

    #[test]
    fn name_cannot_forge_a_row() {
        let model: Model = serde_json::from_value(json!({"id": "a\nb"})).unwrap();
        assert_eq!(row(&model)[0], "a b");
    }
}
