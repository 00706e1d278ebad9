//! `aither-cli models`: what the node serves, as a table.

use crate::{
    client::{Answer, Client, Model, ModelList},
    error::Error,
    render::{self, Column, Output, Table, or_dash},
};

/// Lists the models.
pub(crate) async fn run(client: &Client, output: &Output, json: bool) -> Result<(), Error> {
    let answer = client.models().await?;
    if json {
        return output.line(&answer.line());
    }
    let list = read(&answer)?;
    if list.data.is_empty() {
        render::remark(
            "the node serves no model; fetch one on its machine: \
             aither-node models pull smollm2:135m",
        );
        return Ok(());
    }
    let mut table = Table::new([
        Column::Text("NAME"),
        Column::Number("PARAMETERS"),
        Column::Text("QUANTIZATION"),
        Column::Number("CONTEXT"),
        Column::Text("LOADED"),
    ]);
    for model in &list.data {
        table.push(row(model));
    }
    output.piece(&table.to_string())
}

/// Reads the list that a node answers with.
pub(super) fn read(answer: &Answer) -> Result<ModelList, Error> {
    answer.read("a list of models")
}

fn row(model: &Model) -> [String; 5] {
    let name = match &model.alias_of {
        Some(real) => format!("{} -> {real}", model.id),
        None => model.id.clone(),
    };
    [
        name,
        or_dash(model.parameters.map(render::parameters)),
        or_dash(model.quantization.as_deref()),
        or_dash(model.context_length),
        or_dash(model.loaded.map(|loaded| if loaded { "yes" } else { "no" })),
    ]
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
}
