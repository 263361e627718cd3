import os


def register_tmp_file(gradio_app, filename):
    if hasattr(gradio_app, "temp_file_sets"):
        gradio_app.temp_file_sets[0] = gradio_app.temp_file_sets[0] | {os.path.abspath(filename)}


def check_tmp_file(gradio_app, filename):
    return hasattr(gradio_app, "temp_file_sets") and any(filename in files for files in gradio_app.temp_file_sets)
