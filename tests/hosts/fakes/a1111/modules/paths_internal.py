import os

script_path = os.environ["FAKE_HOST"]  # the real one is where this file is
data_path = script_path
models_path = os.path.join(data_path, "models")
extensions_dir = os.path.join(data_path, "extensions")
