"""The command `serve`: what it refuses, and a server that is started, asked and stopped as a user does it."""

import os
import re
import signal
import subprocess
import sys

import pytest
from chats import chat_model, chat_tokenizer
from families import tiny_model

for name in ("openai", "fastapi", "uvicorn"):
    pytest.importorskip(name, reason="pip install 'hf-memoria[serving]' openai")

from hf_memoria.cli import main  # noqa: E402
from hf_memoria.clients.server import digest_of  # noqa: E402

pytestmark = pytest.mark.slow


def saved(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_what_cannot_be_served_is_refused(tmp_path, capsys):
    folder = ["--memories", str(tmp_path / "memories")]
    plain = saved(
        tmp_path / "plain", tiny_model("Llama", "ForCausalLM", vocab_size=46, pad_token_id=0), chat_tokenizer()
    )
    assert main(["serve", plain, *folder]) == 1
    assert "MODEL must have a memory" in capsys.readouterr().err
    untold = saved(tmp_path / "untold", chat_model("token"), chat_tokenizer(template=None))
    assert main(["serve", untold, *folder]) == 1
    assert "MODEL must have a chat template" in capsys.readouterr().err
    assert main(["serve", plain, *folder, "--memory", "kind=token", "--resident", "-1"]) == 1
    assert "resident must be at least 0 memories; got -1" in capsys.readouterr().err
    assert main(["serve", str(tmp_path / "none"), *folder]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_a_server_is_started_asked_and_stopped(tmp_path):
    from openai import OpenAI

    model = saved(tmp_path / "model", chat_model("token"), chat_tokenizer())
    words = ["serve", model, "--name", "mine", "--memories", str(tmp_path / "memories"), "--port", "0"]
    command = [sys.executable, "-m", "hf_memoria.cli", *words]
    environment = os.environ | {"HF_MEMORIA_API_KEY": "secret", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as process:
        told = ""
        while (found := re.search(r"running on (http://127\.0\.0\.1:\d+)", told)) is None:
            line = process.stderr.readline()
            assert line, told
            told += line
        assert "model 'mine', a memory for each user in" in told
        client = OpenAI(base_url=f"{found[1]}/v1", api_key="secret", max_retries=0)
        said = [{"role": "user", "content": "hi"}]
        answer = client.chat.completions.create(model="mine", messages=said, user="ada", max_tokens=3)
        assert answer.choices[0].message.content is not None
        process.send_signal(signal.SIGTERM)
        assert "Application shutdown complete" in process.stderr.read()
    assert process.returncode in (0, -signal.SIGTERM)
    assert (tmp_path / "memories" / f"{digest_of('ada')}.safetensors").is_file()
