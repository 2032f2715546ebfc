"""The steps of a build. Each module has `run(context)`; they run in step workers, never in the process that
holds the builder's key. Steps are thin: what they know stands in toolchain/{importing,training,evaluation,
documents}, models and quantize.

What a step leaves in its output folder for those after it:

    data            data.npz      <part>_inputs, <part>_labels, <part>_attribute_<name> for train, calibration
                                  and held_out; for text generation corpus.json {part: [documents]}
                    data.json     classes, source, license, rows by part, sha256, attributes (names)
    tokenizer       tokenizer/    a Hugging Face tokenizer: tokenizer.json, tokenizer_config.json, …
    train-…         model/        the trained model, as in model-<m>;  training.json
    model-<m>       model/        python: weights.safetensors; huggingface: a Hugging Face folder;
                                  sklearn: model.skops; onnx: model.onnx (tokenizer.json);  gguf: model.gguf
                    training.json parameters, source; for trained ones train_rows or train_tokens, which run
                                  is shipped, and the runs
    answers-<m>     answers.npz   what the model itself gives on the held-out rows: `held_out`, and for text
                                  generation `tokens` (windows, length) and `held_out` logits of them, float32
    export-<m>-<f>  variant/      the unquantized variant's files; the one that the engine opens is
                                  model.onnx, model.gguf or model.safetensors;  export.json
    quantize-<v>    variant/      the variant's files;  quantization.json {arguments, before, after}
    prompts         prompts/      chat_template.jinja, system.txt;  prompts.json {stop}
    evaluate-<v>    evaluation.json  (see toolchain/evaluation/report.py);  measurements.json
                    outputs.npz   `calibration`, `selftest_inputs`, `selftest_outputs`
    calibrate       fallback.json
    reference       profile.json, vectors.json
    gate            gates.json, measurements.json
    document        README.md, evaluation/…, provenance/…
    package         bundle/       the bundle without its signature
"""
