BEGIN TRANSACTION;
CREATE TABLE call (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        chat TEXT NOT NULL,
        request_key TEXT,
        tool TEXT NOT NULL,
        arguments TEXT NOT NULL,
        deployment TEXT NOT NULL,
        user TEXT,
        workspace TEXT,
        component TEXT NOT NULL,
        record TEXT NOT NULL,
        state INTEGER NOT NULL,
        owner INTEGER,
        interrupted INTEGER NOT NULL,
        sent INTEGER NOT NULL,
        created_ms INTEGER NOT NULL,
        touched_ms INTEGER NOT NULL,
        note TEXT,
        outcome TEXT,
        ended_ms INTEGER
    ) STRICT;
INSERT INTO "call" VALUES(5,'talk',NULL,'restart_workspace','{"only_if_unreachable":true}','http://127.0.0.1:35813/api/v2/','0362a853-1999-4ae1-95d1-4e830a56598d','d165e9f7-b6aa-4ce5-9756-5b80ecfdb4c9','ded952bbc64314f536c6f99f314001ff68c32dbbcdf0c462bcfd615c46f1b074','{"format":1,"key":null,"chat":"talk","deployment":"http://127.0.0.1:35813/api/v2/","user":"0362a853-1999-4ae1-95d1-4e830a56598d","workspace":"d165e9f7-b6aa-4ce5-9756-5b80ecfdb4c9","call":{"export":"call-tool","name":"restart_workspace","arguments":"{\"only_if_unreachable\":true}","policy":{"recover_after_ms":6000,"dial_timeout_ms":2000,"never_connected":"AskUser","max_restarts":2,"build_limit_ms":40000,"restart_stop_limit_ms":240000,"connect_limit_ms":8000,"scripts_limit_ms":40000,"conflict_rounds":3,"tools":["stop_workspace","start_workspace","restart_workspace"],"ask_user_tool":null,"create_tool":null}},"contract":"0.1.0","component":"ded952bbc64314f536c6f99f314001ff68c32dbbcdf0c462bcfd615c46f1b074","engine":"wasmtime 48, memory 16777216, table 10000, stack 262144, fuel 100000000, host calls 4096, journal 16777216","created_ms":1795581180914}',2,NULL,0,1,1795581180914,1795581187123,NULL,'{"ended":"done","result":{"export":"call-tool","output":{"Ok":{"json":"{\"build_id\":\"c222c95e-5d6e-4418-b7d0-1c3d5951f2d6\",\"restarted\":true,\"started\":true,\"stop_build_id\":\"027c41f8-2a0d-4cbf-b832-017d88992de5\",\"workspace_name\":\"dev\"}","is_error":false}}}}',1795581187123);
INSERT INTO "call" VALUES(6,'talk',NULL,'restart_workspace','{}','http://127.0.0.1:35813/api/v2/','0362a853-1999-4ae1-95d1-4e830a56598d','d165e9f7-b6aa-4ce5-9756-5b80ecfdb4c9','ded952bbc64314f536c6f99f314001ff68c32dbbcdf0c462bcfd615c46f1b074','{"format":1,"key":null,"chat":"talk","deployment":"http://127.0.0.1:35813/api/v2/","user":"0362a853-1999-4ae1-95d1-4e830a56598d","workspace":"d165e9f7-b6aa-4ce5-9756-5b80ecfdb4c9","call":{"export":"call-tool","name":"restart_workspace","arguments":"{}","policy":{"recover_after_ms":6000,"dial_timeout_ms":2000,"never_connected":"AskUser","max_restarts":2,"build_limit_ms":40000,"restart_stop_limit_ms":240000,"connect_limit_ms":8000,"scripts_limit_ms":40000,"conflict_rounds":3,"tools":["stop_workspace","start_workspace","restart_workspace"],"ask_user_tool":null,"create_tool":null}},"contract":"0.1.0","component":"ded952bbc64314f536c6f99f314001ff68c32dbbcdf0c462bcfd615c46f1b074","engine":"wasmtime 48, memory 16777216, table 10000, stack 262144, fuel 100000000, host calls 4096, journal 16777216","created_ms":1795581187392}',2,NULL,1,1,1795581187392,1795581188410,NULL,'{"ended":"done","result":{"export":"call-tool","output":{"Ok":{"json":"{\"build_id\":\"9306f25f-86e4-45dc-9b05-78beb0fa709c\",\"error\":\"The call was interrupted while stop build 6 went on; it goes on by itself. No start was asked for: the workspace is down if the stop still succeeds.\",\"interrupted\":true,\"restarted\":false,\"started\":false,\"stop_build_id\":\"9306f25f-86e4-45dc-9b05-78beb0fa709c\",\"stopped\":false}","is_error":false}}}}',1795581188410);
CREATE TABLE chat (
        name TEXT PRIMARY KEY,
        workspace TEXT,
        build TEXT,
        agent TEXT,
        timeouts INTEGER NOT NULL,
        failed_build TEXT,
        away INTEGER NOT NULL,
        last_failure_ms INTEGER,
        last_away_ms INTEGER
    ) STRICT;
INSERT INTO "chat" VALUES('talk','d165e9f7-b6aa-4ce5-9756-5b80ecfdb4c9','e9e5414d-1e3c-4d42-aaca-d6658d3e59b8',NULL,0,NULL,0,NULL,NULL);
CREATE TABLE component (hash TEXT PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
CREATE TABLE entry (
        call INTEGER NOT NULL,
        idx INTEGER NOT NULL,
        format INTEGER NOT NULL,
        function TEXT NOT NULL,
        class TEXT NOT NULL,
        request TEXT NOT NULL,
        intent TEXT,
        asked_ms INTEGER NOT NULL,
        answer TEXT,
        observed_ms INTEGER,
        answered_ms INTEGER,
        PRIMARY KEY (call, idx)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "entry" VALUES(5,0,1,'workspace/latest-build','read','{"function":"latest-build","check_start":true}',NULL,1795581180927,'{"function":"latest-build","answer":{"Ok":{"Bound":{"workspace_name":"dev","template":"704a23b3-dd92-4968-bd45-47938b6fd3da","dormant":false,"latest":{"id":"169af23a-9a67-4241-b425-522ca3f952cf","number":3,"transition":"Start","status":"Succeeded","cancel_requested":false,"ours":true,"queue_position":null,"provisioner":"Unknown","error":null,"error_code":null,"quota":null,"template_version":"7f99e413-773c-4855-9ac7-30922ff475b0"},"start_refusal":null}}}}',1795581180000,1795581180930);
INSERT INTO "entry" VALUES(5,1,1,'workspace/agent-status','read','{"function":"agent-status"}',NULL,1795581180931,'{"function":"agent-status","answer":{"Ok":{"build":{"id":"169af23a-9a67-4241-b425-522ca3f952cf","number":3,"transition":"Start","status":"Succeeded","cancel_requested":false,"ours":true,"queue_position":null,"provisioner":"Unknown","error":null,"error_code":null,"quota":null,"template_version":"7f99e413-773c-4855-9ac7-30922ff475b0"},"observed":1795581180000,"readable_for_ms":19,"agents":[{"id":"154763dc-2a1b-4493-bb2b-b9461807bec1","parent":null,"name":"main","order":0,"external":false,"state":"Disconnected","lifecycle":"Ready","created":1795581171931,"first_connected":1795581171966,"last_connected":1795581171966,"disconnected":1795581172687}]}}}',1795581180000,1795581180934);
INSERT INTO "entry" VALUES(5,2,1,'waits/wait-for-agent','wait','{"function":"wait-for-agent","build":"169af23a-9a67-4241-b425-522ca3f952cf","agent":"154763dc-2a1b-4493-bb2b-b9461807bec1","connect_limit_ms":1981,"scripts_limit_ms":0}','{"intent":"wait","deadline_ms":1795581182915,"last_ms":1795581182915}',1795581180934,'{"function":"wait-for-agent","answer":{"Ok":{"end":"Limit","waited_ms":1990,"agent":{"id":"154763dc-2a1b-4493-bb2b-b9461807bec1","parent":null,"name":"main","order":0,"external":false,"state":"Disconnected","lifecycle":"Ready","created":1795581171931,"first_connected":1795581171966,"last_connected":1795581171966,"disconnected":1795581172687}}}}',NULL,1795581182926);
INSERT INTO "entry" VALUES(5,3,1,'workspace/agent-status','read','{"function":"agent-status"}',NULL,1795581182927,'{"function":"agent-status","answer":{"Ok":{"build":{"id":"169af23a-9a67-4241-b425-522ca3f952cf","number":3,"transition":"Start","status":"Succeeded","cancel_requested":false,"ours":true,"queue_position":null,"provisioner":"Unknown","error":null,"error_code":null,"quota":null,"template_version":"7f99e413-773c-4855-9ac7-30922ff475b0"},"observed":1795581182000,"readable_for_ms":2020,"agents":[{"id":"154763dc-2a1b-4493-bb2b-b9461807bec1","parent":null,"name":"main","order":0,"external":false,"state":"Disconnected","lifecycle":"Ready","created":1795581171931,"first_connected":1795581171966,"last_connected":1795581171966,"disconnected":1795581172687}]}}}',1795581182000,1795581182934);
INSERT INTO "entry" VALUES(5,4,1,'workspace/issue-transition','effect','{"function":"issue-transition","to":"Stop","rests_on":"169af23a-9a67-4241-b425-522ca3f952cf","parameters":[]}','{"intent":"build","workspace":"d165e9f7-b6aa-4ce5-9756-5b80ecfdb4c9","transition":"Stop","user":"0362a853-1999-4ae1-95d1-4e830a56598d","names_version":null,"version":"7f99e413-773c-4855-9ac7-30922ff475b0","rests_on":"169af23a-9a67-4241-b425-522ca3f952cf","rests_on_number":3,"observed":1795581182000}',1795581182935,'{"function":"issue-transition","answer":{"Ok":{"id":"027c41f8-2a0d-4cbf-b832-017d88992de5","number":4,"transition":"Stop","status":"Pending","cancel_requested":false,"ours":true,"queue_position":null,"provisioner":"Available","error":null,"error_code":null,"quota":null,"template_version":"7f99e413-773c-4855-9ac7-30922ff475b0"}}}',NULL,1795581182942);
INSERT INTO "entry" VALUES(5,5,1,'workspace/publish-binding','idempotent-write','{"function":"publish-binding","build":"027c41f8-2a0d-4cbf-b832-017d88992de5"}',NULL,1795581182946,'{"function":"publish-binding","answer":{"Ok":true}}',NULL,1795581182952);
INSERT INTO "entry" VALUES(5,6,1,'waits/wait-for-build','wait','{"function":"wait-for-build","build":"027c41f8-2a0d-4cbf-b832-017d88992de5","limit_ms":240000}','{"intent":"wait","deadline_ms":1795581422953,"last_ms":1795581422953}',1795581182953,'{"function":"wait-for-build","answer":{"Ok":{"end":"Reached","waited_ms":2021,"build":{"id":"027c41f8-2a0d-4cbf-b832-017d88992de5","number":4,"transition":"Stop","status":"Succeeded","cancel_requested":false,"ours":true,"queue_position":null,"provisioner":"Unknown","error":null,"error_code":null,"quota":null,"template_version":"7f99e413-773c-4855-9ac7-30922ff475b0"}}}}',1795581184000,1795581184976);
INSERT INTO "entry" VALUES(5,7,1,'workspace/latest-build','read','{"function":"latest-build","check_start":false}',NULL,1795581184977,'{"function":"latest-build","answer":{"Ok":{"Bound":{"workspace_name":"dev","template":"704a23b3-dd92-4968-bd45-47938b6fd3da","dormant":false,"latest":{"id":"027c41f8-2a0d-4cbf-b832-017d88992de5","number":4,"transition":"Stop","status":"Succeeded","cancel_requested":false,"ours":true,"queue_position":null,"provisioner":"Unknown","error":null,"error_code":null,"quota":null,"template_version":"7f99e413-773c-4855-9ac7-30922ff475b0"},"start_refusal":null}}}}',1795581184000,1795581184980);
INSERT INTO "entry" VALUES(5,8,1,'workspace/latest-build','read','{"function":"latest-build","check_start":false}',NULL,1795581184981,'{"function":"latest-build","answer":{"Ok":{"Bound":{"workspace_name":"dev","template":"704a23b3-dd92-4968-bd45-47938b6fd3da","dormant":false,"latest":{"id":"027c41f8-2a0d-4cbf-b832-017d88992de5","number":4,"transition":"Stop","status":"Succeeded","cancel_requested":false,"ours":true,"queue_position":null,"provisioner":"Unknown","error":null,"error_code":null,"quota":null,"template_version":"7f99e413-773c-4855-9ac7-30922ff475b0"},"start_refusal":null}}}}',1795581184000,1795581184983);
INSERT INTO "entry" VALUES(5,9,1,'workspace/issue-transition','effect','{"function":"issue-transition","to":"Start","rests_on":"027c41f8-2a0d-4cbf-b832-017d88992de5","parameters":[]}','{"intent":"build","workspace":"d165e9f7-b6aa-4ce5-9756-5b80ecfdb4c9","transition":"Start","user":"0362a853-1999-4ae1-95d1-4e830a56598d","names_version":null,"version":"7f99e413-773c-4855-9ac7-30922ff475b0","rests_on":"027c41f8-2a0d-4cbf-b832-017d88992de5","rests_on_number":4,"observed":1795581184000}',1795581184983,'{"function":"issue-transition","answer":{"Ok":{"id":"c222c95e-5d6e-4418-b7d0-1c3d5951f2d6","number":5,"transition":"Start","status":"Pending","cancel_requested":false,"ours":true,"queue_position":null,"provisioner":"Available","error":null,"error_code":null,"quota":null,"template_version":"7f99e413-773c-4855-9ac7-30922ff475b0"}}}',NULL,1795581184989);
INSERT INTO "entry" VALUES(5,10,1,'workspace/publish-binding','idempotent-write','{"function":"publish-binding","build":"c222c95e-5d6e-4418-b7d0-1c3d5951f2d6"}',NULL,1795581185001,'{"function":"publish-binding","answer":{"Ok":true}}',NULL,1795581185008);
INSERT INTO "entry" VALUES(5,11,1,'waits/wait-for-build','wait','{"function":"wait-for-build","build":"c222c95e-5d6e-4418-b7d0-1c3d5951f2d6","limit_ms":40000}','{"intent":"wait","deadline_ms":1795581225010,"last_ms":1795581225010}',1795581185010,'{"function":"wait-for-build","answer":{"Ok":{"end":"Reached","waited_ms":1987,"build":{"id":"c222c95e-5d6e-4418-b7d0-1c3d5951f2d6","number":5,"transition":"Start","status":"Succeeded","cancel_requested":false,"ours":true,"queue_position":null,"provisioner":"Unknown","error":null,"error_code":null,"quota":null,"template_version":"7f99e413-773c-4855-9ac7-30922ff475b0"}}}}',1795581186000,1795581186999);
INSERT INTO "entry" VALUES(5,12,1,'workspace/latest-build','read','{"function":"latest-build","check_start":false}',NULL,1795581187000,'{"function":"latest-build","answer":{"Ok":{"Bound":{"workspace_name":"dev","template":"704a23b3-dd92-4968-bd45-47938b6fd3da","dormant":false,"latest":{"id":"c222c95e-5d6e-4418-b7d0-1c3d5951f2d6","number":5,"transition":"Start","status":"Succeeded","cancel_requested":false,"ours":true,"queue_position":null,"provisioner":"Unknown","error":null,"error_code":null,"quota":null,"template_version":"7f99e413-773c-4855-9ac7-30922ff475b0"},"start_refusal":null}}}}',1795581187000,1795581187003);
INSERT INTO "entry" VALUES(5,13,1,'workspace/agent-status','read','{"function":"agent-status"}',NULL,1795581187005,'{"function":"agent-status","answer":{"Ok":{"build":{"id":"c222c95e-5d6e-4418-b7d0-1c3d5951f2d6","number":5,"transition":"Start","status":"Succeeded","cancel_requested":false,"ours":true,"queue_position":null,"provisioner":"Unknown","error":null,"error_code":null,"quota":null,"template_version":"7f99e413-773c-4855-9ac7-30922ff475b0"},"observed":1795581187000,"readable_for_ms":6093,"agents":[{"id":"c6918b14-01ea-42df-b21b-210b905eb1cc","parent":null,"name":"main","order":0,"external":false,"state":"Connected","lifecycle":"Created","created":1795581186990,"first_connected":1795581187005,"last_connected":1795581187005,"disconnected":null}]}}}',1795581187000,1795581187007);
INSERT INTO "entry" VALUES(5,14,1,'waits/wait-for-agent','wait','{"function":"wait-for-agent","build":"c222c95e-5d6e-4418-b7d0-1c3d5951f2d6","agent":"c6918b14-01ea-42df-b21b-210b905eb1cc","connect_limit_ms":8000,"scripts_limit_ms":40000}','{"intent":"wait","deadline_ms":1795581195009,"last_ms":1795581235009}',1795581187009,'{"function":"wait-for-agent","answer":{"Ok":{"end":"Reached","waited_ms":110,"agent":{"id":"c6918b14-01ea-42df-b21b-210b905eb1cc","parent":null,"name":"main","order":0,"external":false,"state":"Connected","lifecycle":"Ready","created":1795581186990,"first_connected":1795581187005,"last_connected":1795581187005,"disconnected":null}}}}',1795581187000,1795581187121);
INSERT INTO "entry" VALUES(6,0,1,'workspace/latest-build','read','{"function":"latest-build","check_start":true}',NULL,1795581187404,'{"function":"latest-build","answer":{"Ok":{"Bound":{"workspace_name":"dev","template":"704a23b3-dd92-4968-bd45-47938b6fd3da","dormant":false,"latest":{"id":"c222c95e-5d6e-4418-b7d0-1c3d5951f2d6","number":5,"transition":"Start","status":"Succeeded","cancel_requested":false,"ours":true,"queue_position":null,"provisioner":"Unknown","error":null,"error_code":null,"quota":null,"template_version":"7f99e413-773c-4855-9ac7-30922ff475b0"},"start_refusal":null}}}}',1795581187000,1795581187408);
INSERT INTO "entry" VALUES(6,1,1,'workspace/issue-transition','effect','{"function":"issue-transition","to":"Stop","rests_on":"c222c95e-5d6e-4418-b7d0-1c3d5951f2d6","parameters":[]}','{"intent":"build","workspace":"d165e9f7-b6aa-4ce5-9756-5b80ecfdb4c9","transition":"Stop","user":"0362a853-1999-4ae1-95d1-4e830a56598d","names_version":null,"version":"7f99e413-773c-4855-9ac7-30922ff475b0","rests_on":"c222c95e-5d6e-4418-b7d0-1c3d5951f2d6","rests_on_number":5,"observed":1795581187000}',1795581187409,'{"function":"issue-transition","answer":{"Ok":{"id":"9306f25f-86e4-45dc-9b05-78beb0fa709c","number":6,"transition":"Stop","status":"Pending","cancel_requested":false,"ours":true,"queue_position":null,"provisioner":"Available","error":null,"error_code":null,"quota":null,"template_version":"7f99e413-773c-4855-9ac7-30922ff475b0"}}}',NULL,1795581187414);
INSERT INTO "entry" VALUES(6,2,1,'workspace/publish-binding','idempotent-write','{"function":"publish-binding","build":"9306f25f-86e4-45dc-9b05-78beb0fa709c"}',NULL,1795581187416,'{"function":"publish-binding","answer":{"Ok":true}}',NULL,1795581187417);
INSERT INTO "entry" VALUES(6,3,1,'waits/wait-for-build','wait','{"function":"wait-for-build","build":"9306f25f-86e4-45dc-9b05-78beb0fa709c","limit_ms":240000}','{"intent":"wait","deadline_ms":1795581427418,"last_ms":1795581427418}',1795581187418,'{"function":"wait-for-build","answer":{"Ok":{"end":"Interrupted","waited_ms":985,"build":{"id":"9306f25f-86e4-45dc-9b05-78beb0fa709c","number":6,"transition":"Stop","status":"Running","cancel_requested":false,"ours":true,"queue_position":null,"provisioner":"Unknown","error":null,"error_code":null,"quota":null,"template_version":"7f99e413-773c-4855-9ac7-30922ff475b0"}}}}',NULL,1795581188404);
CREATE TABLE host (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        deployment TEXT NOT NULL,
        user TEXT,
        lease_until_ms INTEGER NOT NULL
    ) STRICT;
CREATE TABLE own_build (id TEXT PRIMARY KEY, at_ms INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO "own_build" VALUES('2efd7b4d-0379-4fb5-b7ee-f1449bf6e029',1795581167244);
INSERT INTO "own_build" VALUES('169af23a-9a67-4241-b425-522ca3f952cf',1795581169925);
INSERT INTO "own_build" VALUES('027c41f8-2a0d-4cbf-b832-017d88992de5',1795581182942);
INSERT INTO "own_build" VALUES('c222c95e-5d6e-4418-b7d0-1c3d5951f2d6',1795581184994);
INSERT INTO "own_build" VALUES('9306f25f-86e4-45dc-9b05-78beb0fa709c',1795581187414);
INSERT INTO "own_build" VALUES('a58831e9-aee8-4539-b0e8-9116e6d193f8',1795581189542);
INSERT INTO "own_build" VALUES('e9e5414d-1e3c-4d42-aaca-d6658d3e59b8',1795581192070);
CREATE TABLE restart_verdict (workspace TEXT NOT NULL, at_ms INTEGER NOT NULL) STRICT;
CREATE INDEX restart_verdict_workspace ON restart_verdict (workspace, at_ms);
CREATE INDEX own_build_at ON own_build (at_ms);
CREATE INDEX restart_verdict_at ON restart_verdict (at_ms);
CREATE UNIQUE INDEX call_key ON call (chat, request_key) WHERE request_key IS NOT NULL;
CREATE INDEX call_lane ON call (workspace, id) WHERE state < 2 AND workspace IS NOT NULL;
CREATE INDEX call_owner ON call (owner, id) WHERE state < 2;
CREATE INDEX call_news ON call (owner, id) WHERE state < 2 AND (state = 0 OR interrupted = 1);
CREATE INDEX call_ended ON call (ended_ms) WHERE state = 2;
CREATE INDEX call_component ON call (component);
COMMIT;
PRAGMA user_version = 2;
