import os

script_path = os.environ["FAKE_HOST"]  # the real one is where this file is
data_path = ""  # the folder that was started in
models_path = os.path.join(data_path, "models")
extensions_dir = os.path.join(data_path, "extensions")


def resolve_output_path(base_path: str, specific_path: str) -> str:
    return os.path.normpath(os.path.join(base_path or "", specific_path or ""))
