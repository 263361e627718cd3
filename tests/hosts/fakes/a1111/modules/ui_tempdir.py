import os


def register_tmp_file(gradio, filename):
    if hasattr(gradio, "temp_file_sets"):
        gradio.temp_file_sets[0] = gradio.temp_file_sets[0] | {os.path.abspath(filename)}


def check_tmp_file(gradio, filename):
    return hasattr(gradio, "temp_file_sets") and any(filename in files for files in gradio.temp_file_sets)
