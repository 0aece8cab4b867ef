"""A bridge to nowhere, with the framework that most bridges are made of.

It prints its port, reads the homeserver's URL and name from the standard input, and goes to work: its bot encrypts without
syncing, with a device made without a login. In each room to which the bot is invited it brings a ghost in, and to each
message it lets the ghost answer. When something fails, it ends.
"""

import asyncio
import logging
import os
import socket
import sys

from aiohttp import web
from mautrix.appservice import AppService
from mautrix.appservice.state_store import FileASStateStore
from mautrix.client import Client
from mautrix.crypto import MemoryCryptoStore, OlmMachine
from mautrix.crypto.store import StateStore
from mautrix.errors import EncryptionError
from mautrix.types import EventType, Membership, MessageType, TextMessageEventContent, TrustState

GHOST = "_echo_ghost"


class Store(FileASStateStore, StateStore):
    """What the bot knows of rooms."""

    async def find_shared_rooms(self, user_id):
        return [room for room, members in self.members.items() if user_id in members]


class Bridge:
    def __init__(self, url, domain, listener):
        self.listener = listener
        self.store = Store("state.json", binary=False)
        self.service = AppService(
            server=url,
            domain=domain,
            as_token=os.environ["AS_TOKEN"],
            hs_token=os.environ["HS_TOKEN"],
            bot_localpart="echobot",
            id="echo",
            state_store=self.store,
            ephemeral_events=True,
            encryption_events=True,
        )
        self.service.synchronous_handlers = False
        self.client = Client(base_url=url, mxid=self.service.bot_mxid, state_store=self.store)
        self.crypto = OlmMachine(self.client, MemoryCryptoStore("", "echo"), self.store)
        self.crypto.share_keys_min_trust = TrustState.UNVERIFIED
        self.service.otk_handler = self.crypto.handle_as_otk_counts
        self.service.device_list_handler = self.crypto.handle_as_device_lists
        self.service.to_device_handler = self.crypto.handle_as_to_device_event
        self.service.matrix_event_handler(self.on_event)

    async def start(self):
        # As AppService.start does, but on a port that the system chose.
        real = web.TCPSite
        web.TCPSite = lambda runner, *_, **__: web.SockSite(runner, self.listener)
        await self.service.start()
        web.TCPSite = real
        self.ghost = self.service.intent.user(f"@{GHOST}:{self.service.domain}")
        await self.service.intent.ensure_registered()
        await self.service.ping_self("meow")
        self.client.api.token = self.service.as_token
        await self.client.create_device_msc4190(device_id="BRIDGE", initial_display_name="Echo bridge")
        me = await self.client.whoami()
        assert (me.user_id, me.device_id) == (self.service.bot_mxid, "BRIDGE"), me
        await self.crypto.load()
        await self.crypto.share_keys()
        await self.crypto.generate_recovery_key()
        await self.ghost.ensure_registered()
        await self.ghost.set_displayname("Echo")

    async def on_event(self, event):
        try:
            await self.handle(event)
        except Exception:
            logging.exception("the bridge fails at %s", event)
            os._exit(1)

    async def handle(self, event):
        if event.type == EventType.ROOM_MEMBER:
            await self.crypto.handle_member_event(event)
            if event.state_key == self.service.bot_mxid and event.content.membership == Membership.INVITE:
                await self.enter(event.room_id)
        elif event.type == EventType.ROOM_ENCRYPTED and event.sender not in (self.ghost.mxid, self.service.bot_mxid):
            decrypted = await self.decrypt(event)
            text = TextMessageEventContent(msgtype=MessageType.TEXT, body=f"echo: {decrypted.content.body}")
            kind, content = await self.encrypt(event.room_id, EventType.ROOM_MESSAGE, text)
            await self.ghost.mark_read(event.room_id, event.event_id)
            await self.ghost.send_message_event(event.room_id, kind, content)

    async def enter(self, room):
        bot = self.service.intent
        await bot.join_room_by_id(room)
        await bot.get_state_event(room, EventType.ROOM_ENCRYPTION)
        await bot.get_room_members(room)
        await bot.invite_user(room, self.ghost.mxid)
        await self.ghost.join_room_by_id(room)

    async def decrypt(self, event):
        try:
            return await self.crypto.decrypt_megolm_event(event)
        except EncryptionError:
            # The key is a message to the device, and comes with another transaction.
            await self.crypto.wait_for_session(event.room_id, event.content.session_id, timeout=30)
            return await self.crypto.decrypt_megolm_event(event)

    async def encrypt(self, room, kind, content):
        try:
            return EventType.ROOM_ENCRYPTED, await self.crypto.encrypt_megolm_event(room, kind, content)
        except EncryptionError:
            members = await self.service.intent.get_joined_members(room)
            users = [user for user in members if user not in (self.ghost.mxid, self.service.bot_mxid)]
            await self.crypto.share_group_session(room, users)
            return EventType.ROOM_ENCRYPTED, await self.crypto.encrypt_megolm_event(room, kind, content)


async def main():
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    url, domain = line.split()
    bridge = Bridge(url, domain, listener)
    await bridge.start()
    print("ready", flush=True)
    # Ends with the test.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


asyncio.run(main())
